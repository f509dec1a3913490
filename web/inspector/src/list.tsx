import { bytes, clock, duration, plural } from './format'
import type { Summary } from './api'
import { Button, StatusBadge } from './parts'
import * as api from './api'
import {
  attempt, clear, compared, copy, download, filter, filtering, held, inspecting, loaded, loadOlder, marked, noFilter, older,
  paused, resume, selected, setFilter, setPaused, sorted, status,
} from './store'

const online = () => (status.value?.endpoints ?? []).filter((e) => e.kind === 'http')

/** The endpoints at the top, to pick one. */
export function Endpoints() {
  const all = status.value?.endpoints ?? []
  return (
    <nav class="endpoints" aria-label="Endpoints">
      {all.map((e) => {
        const ok = e.state === 'online' && e.upstream_healthy
        const picked = filter.value.endpoint === e.name
        const says = e.state !== 'online' ? e.error || e.state : e.upstream_healthy ? `to ${e.upstream}` : `${e.upstream} does not answer`
        return (
          <button
            type="button"
            key={e.name}
            class={`endpoint ${ok ? 'up' : 'down'}`}
            aria-pressed={picked}
            title={`${e.url ?? e.name}: ${says}`}
            onClick={() => setFilter({ endpoint: picked ? '' : e.name })}
          >
            <i />
            <span>{(e.url ?? e.name).replace(/^https?:\/\//, '')}</span>
          </button>
        )
      })}
    </nav>
  )
}

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS']
const statuses = [['2xx', '2xx'], ['3xx', '3xx'], ['4xx', '4xx'], ['5xx', '5xx'], ['failed', 'cut off']] as const

function Filters() {
  const f = filter.value
  return (
    <div class="filters" role="search">
      <input
        id="search"
        type="search"
        placeholder="Search headers and bodies"
        aria-label="Search headers and bodies"
        value={f.text}
        onInput={(e) => setFilter({ text: e.currentTarget.value })}
      />
      <div class="picks">
        <input
          type="search"
          placeholder="Path"
          aria-label="Part of the path"
          value={f.path}
          onInput={(e) => setFilter({ path: e.currentTarget.value })}
        />
        <select aria-label="Method" value={f.method} onChange={(e) => setFilter({ method: e.currentTarget.value })}>
          <option value="">Method</option>
          {methods.map((m) => (
            <option key={m}>{m}</option>
          ))}
        </select>
        <select aria-label="Status" value={f.status} onChange={(e) => setFilter({ status: e.currentTarget.value })}>
          <option value="">Status</option>
          {statuses.map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </select>
      </div>
    </div>
  )
}

export function List() {
  const rows = sorted.value
  return (
    <section class="list" aria-label="Requests">
      <Filters />
      <div class="bar">
        <span class="count">{filtering.value ? plural(rows.length, 'match').replace(/matchs$/, 'matches') : plural(rows.length, 'request')}</span>
        {filtering.value && (
          <button type="button" class="textual" onClick={() => setFilter(noFilter)}>
            Show all
          </button>
        )}
        <span class="gap" />
        <Button
          icon={paused.value ? 'play' : 'pause'}
          label={paused.value ? 'Go on' : 'Pause'}
          pressed={paused.value}
          onClick={() => setPaused(!paused.value)}
        />
        <Button icon="save" label="Export as HAR" disabled={rows.length === 0} onClick={() => void attempt(async () => download(await api.harOf(filter.value), 'culvert.har'))} />
        <Button icon="trash" label="Clear" disabled={rows.length === 0} onClick={() => void attempt(clear)} />
      </div>
      {paused.value && (
        <button type="button" class="held" onClick={resume}>
          Paused{held.value.length > 0 ? ` · ${plural(held.value.length, 'new request')}` : ''} · go on
        </button>
      )}
      <div class="rows">
        {rows.map((row) => (
          <Row key={row.id} row={row} />
        ))}
        {older.value && (
          <button type="button" class="more" onClick={() => void attempt(loadOlder)}>
            Load older requests
          </button>
        )}
        {loaded.value && rows.length === 0 && <Empty />}
      </div>
    </section>
  )
}

const kinds: Record<Summary['kind'], string> = { http: '', websocket: 'WebSocket', events: 'events', grpc: 'gRPC' }

export function pathOf(path: string) {
  const at = path.indexOf('?')
  return at < 0 ? (
    <span class="path">{path}</span>
  ) : (
    <span class="path">
      {path.slice(0, at)}
      <span class="query">{path.slice(at)}</span>
    </span>
  )
}

function Row({ row }: { row: Summary }) {
  const current = selected.value === row.id || compared.value?.includes(row.id)
  const several = online().length > 1
  return (
    <a
      class={`row ${row.state}${marked.value === row.id ? ' marked' : ''}`}
      href={`#/${row.id}`}
      data-row={row.id}
      aria-current={current ? 'true' : undefined}
      aria-label={`${row.method} ${row.path}, ${row.status ?? row.state}`}
    >
      <StatusBadge row={row} />
      <span class="what">
        <b class={`method m-${row.method.toLowerCase()}`}>{row.method}</b>
        {pathOf(row.path)}
      </span>
      <span class="took">{row.state === 'open' && row.kind !== 'http' ? 'live' : duration(row.duration_ms)}</span>
      <span class="sub">
        <time dateTime={row.start}>{clock(row.start)}</time>
        {row.replay_of ? (
          <span class="tag replayed">{row.edited ? 'edited replay' : 'replay'}</span>
        ) : (
          <span class="visitor">{row.visitor?.replace(/:\d+$/, (m) => (row.visitor!.includes('.') ? '' : m))}</span>
        )}
        {several && <span>{row.endpoint}</span>}
        {kinds[row.kind] && (
          <span class="tag">
            {kinds[row.kind]} {row.frames ? row.frames.toLocaleString() : ''}
          </span>
        )}
        {row.gap && <span class="tag bad">gap</span>}
      </span>
      <span class="size">{row.response_size > 0 ? bytes(row.response_size) : ''}</span>
    </a>
  )
}

function Empty() {
  if (!inspecting.value) {
    return (
      <div class="empty">
        <h2>Requests are not inspected</h2>
        <p>The agent runs with --no-inspect. Start it without to see them here.</p>
      </div>
    )
  }
  if (filtering.value) {
    return (
      <div class="empty">
        <h2>No request matches</h2>
        <p>
          <button type="button" class="textual" onClick={() => setFilter(noFilter)}>
            Show all
          </button>
        </p>
      </div>
    )
  }
  const url = online().find((e) => e.state === 'online')?.url
  return (
    <div class="empty">
      <svg viewBox="0 0 200 110" aria-hidden="true" class="scene">
        <path class="ground" d="M0 92h200" />
        <path class="arch" d="M50 92V70a50 50 0 0 1 100 0v22" />
        <path class="arch inner" d="M66 92V72a34 34 0 0 1 68 0v20" />
        <path class="water" d="M-40 84c10-8 20-8 30 0s20 8 30 0 20-8 30 0 20 8 30 0 20-8 30 0 20 8 30 0 20-8 30 0 20 8 30 0 20-8 30 0" />
      </svg>
      <h2>Waiting for the first request</h2>
      {url ? (
        <>
          <p>Whatever visits this address shows up here, as it happens.</p>
          <div class="address">
            <code>{url}</code>
            <Button icon="copy" label="Copy the address" onClick={() => void attempt(() => copy(url, 'Address'))} />
          </div>
          <p class="fine">
            Or try <code>curl {url}</code>
          </p>
        </>
      ) : (
        <p>
          As soon as an http endpoint is online, its address is here.
        </p>
      )}
      <p class="fine">
        Press <kbd>?</kbd> for keys
      </p>
    </div>
  )
}
