import { useEffect, useState } from 'preact/hooks'
import * as api from './api'
import type { Body, Detail } from './api'
import { bytes, clock, diffLines, duration, plural, prettyJSON } from './format'
import { Button, StatusBadge } from './parts'
import { attempt, select } from './store'

/** Two requests side by side; what differs stands out. */
export function Compare({ ids }: { ids: [string, string] }) {
  const [pair, setPair] = useState<[Detail, Detail] | undefined>(undefined)
  useEffect(() => {
    void attempt(async () => setPair([await api.detail(ids[0]), await api.detail(ids[1])]))
  }, [])
  return (
    <section class="detail compare" aria-label="Two requests compared" aria-busy={!pair}>
      <header class="head">
        <div class="title">
          <div class="back always">
            <Button icon="back" label="Back" onClick={() => select(ids[1])} />
          </div>
          <h1>
            #{ids[0]} and #{ids[1]}
          </h1>
        </div>
      </header>
      {pair && <Compared a={pair[0]} b={pair[1]} />}
    </section>
  )
}

function Compared({ a, b }: { a: Detail; b: Detail }) {
  const facts: [string, string, string][] = [
    ['Method', a.method, b.method],
    ['URL', a.url, b.url],
    ['Protocol', a.protocol, b.protocol],
    ['Time', clock(a.start), clock(b.start)],
    ['Took', duration(a.duration_ms), duration(b.duration_ms)],
    ['Answer', bytes(a.response_size), bytes(b.response_size)],
  ]
  return (
    <div class="panel" tabIndex={0}>
      <div class="pair">
        {[a, b].map((d) => (
          <a key={d.id} href={`#/${d.id}`} class="card">
            <StatusBadge row={d} />
            <span>
              <b class={`method m-${d.method.toLowerCase()}`}>{d.method}</b> <span class="path">{d.path}</span>
            </span>
          </a>
        ))}
      </div>
      <Table title="Exchange" rows={facts} />
      <Table title="Request headers" rows={joined(a.request.headers, b.request.headers)} />
      <BodyDiff title="Request body" a={a.request.body} b={b.request.body} />
      <Table title="Response headers" rows={joined(a.response.headers, b.response.headers)} />
      <BodyDiff title="Response body" a={a.response.body} b={b.response.body} />
    </div>
  )
}

/** Fields of both by name, those of one alone among them. */
function joined(a: [string, string][], b: [string, string][]): [string, string, string][] {
  const names = new Map<string, string>()
  for (const [n] of [...a, ...b]) if (!names.has(n.toLowerCase())) names.set(n.toLowerCase(), n)
  const values = (of: [string, string][], key: string) =>
    of
      .filter(([n]) => n.toLowerCase() === key)
      .map(([, v]) => v)
      .join('\n')
  return [...names].map(([key, name]) => [name, values(a, key), values(b, key)])
}

function Table({ title, rows }: { title: string; rows: [string, string, string][] }) {
  const [all, setAll] = useState(false)
  const different = rows.filter(([, x, y]) => x !== y)
  const shown = all ? rows : different
  const same = rows.length - different.length
  return (
    <section class="difference">
      <h2>
        {title}
        <span class="fine">{different.length === 0 ? 'no difference' : `${different.length} different`}</span>
        {same > 0 && (
          <button type="button" class="textual" onClick={() => setAll(!all)}>
            {all ? 'only differences' : `and ${same} the same`}
          </button>
        )}
      </h2>
      {shown.length > 0 && (
        <table>
          <tbody>
            {shown.map(([name, x, y]) => (
              <tr key={name} class={x !== y ? 'differs' : ''}>
                <th scope="row">{name}</th>
                <td class={x ? '' : 'absent'}>{x || 'absent'}</td>
                <td class={y ? '' : 'absent'}>{y || 'absent'}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  )
}

function linesOf(body: Body): string[] | undefined {
  if (body.base64 !== undefined) return undefined
  const text = body.text ?? ''
  return text ? (prettyJSON(text) ?? text).split('\n') : []
}

function BodyDiff({ title, a, b }: { title: string; a: Body; b: Body }) {
  if (a.size === 0 && b.size === 0) return null
  const x = linesOf(a)
  const y = linesOf(b)
  const same = a.text === b.text && a.base64 === b.base64
  const lines = !same && x && y ? diffLines(x, y) : undefined
  return (
    <section class="difference">
      <h2>
        {title} <span class="fine">{same ? 'no difference' : lines ? `${plural(lines.filter(([l, r]) => l !== r).length, 'line')} different` : 'different, and not comparable as text'}</span>
      </h2>
      {lines && (
        <div class="lines">
          {context(lines).map(([left, right], i) =>
            left === null ? (
              <div key={i} class="skip">
                ⋯
              </div>
            ) : (
              <div key={i} class={left === right ? '' : 'differs'}>
                <code class={left === undefined ? 'absent' : ''}>{left}</code>
                <code class={right === undefined ? 'absent' : ''}>{right}</code>
              </div>
            ),
          )}
        </div>
      )}
    </section>
  )
}

/** Differences with three lines around them; null stands for what was left out. */
function context(lines: (readonly [string | undefined, string | undefined])[]): (readonly [string | undefined | null, string | undefined | null])[] {
  const keep = new Set<number>()
  lines.forEach(([l, r], i) => {
    if (l !== r) for (let k = i - 3; k <= i + 3; k++) keep.add(k)
  })
  const out: (readonly [string | undefined | null, string | undefined | null])[] = []
  lines.forEach((line, i) => {
    if (keep.has(i)) out.push(line)
    else if (out.at(-1)?.[0] !== null) out.push([null, null])
  })
  return out
}
