import { useState } from 'preact/hooks'
import * as api from './api'
import type { Detail, Message } from './api'
import { BodyView } from './body'
import { Edit } from './edit'
import { bytes, clock, duration, plural } from './format'
import { Frames } from './frames'
import { editing } from './keys'
import { Button, StatusBadge } from './parts'
import { attempt, copy, download, mark, marked, replay, secrets, select, selected, showSecrets, shown } from './store'

export function DetailPane() {
  const d = shown.value
  if (!selected.value) {
    return (
      <section class="detail nothing" aria-label="Request">
        <p>Pick a request to look into it.</p>
        <p class="fine">
          <kbd>j</kbd> <kbd>k</kbd> move · <kbd>r</kbd> replay · <kbd>?</kbd> all keys
        </p>
      </section>
    )
  }
  return (
    <section class="detail" aria-label="Request" aria-busy={!d}>
      {d && <Shown key={d.id} d={d} />}
    </section>
  )
}

type Tab = 'response' | 'request' | 'messages'

function Shown({ d }: { d: Detail }) {
  const framed = d.kind !== 'http'
  const [chosen, setTab] = useState<Tab | undefined>(undefined)
  const tab = chosen ?? (framed ? 'messages' : 'response')
  const tabs: (readonly [Tab, string])[] = [
    ...(framed ? ([['messages', `${d.kind === 'events' ? 'Events' : 'Messages'} ${d.frames ?? 0}`]] as const) : []),
    ['response', 'Response'],
    ['request', 'Request'],
  ]
  return (
    <>
      <header class="head">
        <div class="title">
          <div class="back">
            <Button icon="back" label="Back to the list" onClick={() => select(undefined)} />
          </div>
          <StatusBadge row={d} />
          <h1>
            <b class={`method m-${d.method.toLowerCase()}`}>{d.method}</b> <span class="url">{d.url}</span>
          </h1>
          <Button icon="copy" label="Copy the URL" onClick={() => void attempt(() => copy(d.url, 'URL'))} />
        </div>
        <p class="facts">
          <span>{clock(d.start)}</span>
          <span>{d.endpoint}</span>
          {d.replay_of ? (
            <span>
              {d.edited ? 'edited replay of ' : 'replay of '}
              <a href={`#/${d.replay_of}`}>#{d.replay_of}</a>
              {' · '}
              <a href={`#/${d.replay_of}/${d.id}`}>compare</a>
            </span>
          ) : (
            <span>from {d.visitor}</span>
          )}
          <span>{d.protocol}</span>
          <span>
            {bytes(d.request_size)} in, {bytes(d.response_size)} out
          </span>
          {d.interim && <span>{d.interim.join(', ')} before the answer</span>}
        </p>
        {d.gap && <p class="warning">Some of this request passed faster than it could be captured.</p>}
        {d.unreached && <p class="warning">The upstream could not be reached, and the visitor got an error: {d.unreached}</p>}
        {d.state === 'failed' && !d.gap && !d.unreached && <p class="warning">The connection ended before the answer was complete.</p>}
        <Actions d={d} />
        <TimingBar d={d} />
      </header>
      <div class="tabs" role="tablist" aria-label="Parts of the exchange">
        {tabs.map(([name, label]) => (
          <button type="button" role="tab" key={name} id={`tab-${name}`} aria-selected={tab === name} aria-controls="panel" onClick={() => setTab(name)}>
            {label}
          </button>
        ))}
      </div>
      <div class="panel" role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`} tabIndex={0}>
        {tab === 'messages' && <Frames d={d} />}
        {tab === 'response' && (d.response.line ? <MessageView m={d.response} key="response" name="response" /> : <p class="none">No answer yet.</p>)}
        {tab === 'request' && <MessageView m={d.request} key="request" name="request" />}
      </div>
      {editing.value && <Edit key={String(d.redacted)} d={d} />}
    </>
  )
}

function Actions({ d }: { d: Detail }) {
  const why = d.repeatable ? undefined : d.not_repeatable
  return (
    <div class="actions">
      <Button text primary icon="replay" label="Replay" disabled={!d.repeatable} title={why ?? 'Send it to the upstream again (r)'} onClick={() => void attempt(() => replay(d.id))} />
      <Button text icon="edit" label="Edit and replay" disabled={d.kind === 'websocket'} title="Change it first (e)" onClick={() => (editing.value = true)} />
      <Button text icon="terminal" label="curl" disabled={!d.repeatable} title="Copy as a curl command (c)" onClick={() => void attempt(async () => copy(await api.curl(d.id, secrets.value), 'curl command'))} />
      <Button text icon="save" label="HAR" title="Save as an HTTP archive" onClick={() => void attempt(async () => download(await api.har(d.id, secrets.value), `request-${d.id}.har`))} />
      <Button text icon="compare" label={marked.value && marked.value !== d.id ? `Compare with #${marked.value}` : 'Compare'} pressed={marked.value === d.id} title="Mark it, then pick another (x)" onClick={() => mark(d.id)} />
      {(d.redacted || secrets.value) && (
        <Button text icon="eye" label={secrets.value ? 'Hide credentials' : 'Show credentials'} pressed={secrets.value} onClick={() => void showSecrets(!secrets.value)} />
      )}
    </div>
  )
}

/** Where the time went: sending the request, waiting, receiving the answer. */
function TimingBar({ d }: { d: Detail }) {
  const total = Math.max(d.timing.end ?? d.duration_ms, 0.001)
  const first = d.timing.first_byte ?? total
  const sent = Math.min(d.timing.request_end ?? first, first)
  const phases = [
    ['send', 'Request', sent],
    ['wait', 'Waiting', first - sent],
    ['receive', 'Answer', total - first],
  ] as const
  return (
    <div class="timing" role="img" aria-label={`Took ${duration(total)}: ${phases.map(([, what, ms]) => `${what} ${duration(ms)}`).join(', ')}`}>
      <div class="track">
        {phases.map(([name, , ms]) => (
          <i key={name} class={name} style={{ width: `${(100 * ms) / total}%` }} />
        ))}
      </div>
      <div class="legend">
        {phases.map(([name, what, ms]) => (
          <span key={name}>
            <i class={name} />
            {what} <b>{duration(ms)}</b>
          </span>
        ))}
        <span class="total">
          {d.state === 'open' ? 'so far ' : ''}
          <b>{duration(total)}</b>
        </span>
      </div>
    </div>
  )
}

function MessageView({ m, name }: { m: Message; name: string }) {
  return (
    <>
      <BodyView body={m.body} name={name} />
      <Headers title="Headers" line={m.line} fields={m.headers} />
      {m.trailers && m.trailers.length > 0 && <Headers title="Trailers" fields={m.trailers} />}
    </>
  )
}

function Headers({ title, line, fields }: { title: string; line?: string; fields: [string, string][] }) {
  return (
    <details class="headers" open>
      <summary>
        {title} <span class="fine">{plural(fields.length, 'field')}</span>
      </summary>
      {line && <code class="line">{line}</code>}
      <dl>
        {fields.map(([name, value], i) => (
          <div key={i}>
            <dt>{name}</dt>
            <dd class={value.includes('••••••') ? 'hidden' : ''}>{value}</dd>
          </div>
        ))}
      </dl>
    </details>
  )
}
