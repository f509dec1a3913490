import { computed, signal } from '@preact/signals'
import * as api from './api'
import type { Detail, Filter, Status, Summary } from './api'

// What the page knows. Rows are kept by id, since the same request comes again whenever
// it changes.

export const noFilter: Filter = { status: '', method: '', path: '', text: '', endpoint: '' }

export const filter = signal<Filter>(noFilter)
export const rows = signal<ReadonlyMap<string, Summary>>(new Map())
export const older = signal<string | undefined>(undefined)
export const loaded = signal(false)
export const paused = signal(false)
export const held = signal<readonly Summary[]>([])
export const status = signal<Status | undefined>(undefined)
export const live = signal(false)
export const version = signal('')
export const inspecting = signal(true)

export const selected = signal<string | undefined>(undefined)
export const shown = signal<Detail | undefined>(undefined)
export const secrets = signal(false)
export const marked = signal<string | undefined>(undefined)
export const compared = signal<[string, string] | undefined>(undefined)
export const notice = signal<{ text: string; bad?: boolean } | undefined>(undefined)

/** How many rows the page holds at most; older ones are fetched again on demand. */
const maxRows = 2000

export const sorted = computed(() => [...rows.value.values()].sort((a, b) => Number(b.id) - Number(a.id)))
export const filtering = computed(() => Object.values(filter.value).some((v) => v !== ''))

let noticeTimer = 0
export function say(text: string, bad = false) {
  notice.value = { text, bad }
  clearTimeout(noticeTimer)
  noticeTimer = window.setTimeout(() => (notice.value = undefined), 4000)
}

export async function attempt(action: () => Promise<unknown>) {
  try {
    await action()
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), true)
  }
}

function merge(list: readonly Summary[]) {
  const next = new Map(rows.value)
  for (const row of list) next.set(row.id, row)
  if (next.size > maxRows) {
    const ids = [...next.keys()].sort((a, b) => Number(a) - Number(b))
    const drop = ids.slice(0, next.size - maxRows)
    for (const id of drop) next.delete(id)
    older.value = ids[drop.length]
  }
  rows.value = next
}

export function resume() {
  paused.value = false
  merge(held.value)
  held.value = []
}

export function setPaused(to: boolean) {
  if (to) paused.value = true
  else resume()
}

export async function clear() {
  await api.clear()
  forget()
}

function forget() {
  rows.value = new Map()
  held.value = []
  older.value = undefined
  marked.value = undefined
  if (location.hash) location.hash = ''
}

let source: EventSource | undefined
let generation = 0

/** Listens to what happens, for the filter. What there is already is loaded once that
 *  is under way, so that nothing falls between, and again whenever it begins anew: the
 *  agent may be another then. */
export function connect() {
  const mine = ++generation
  source?.close()
  const events = new EventSource(`/api/events?${api.queryOf(filter.value)}`)
  source = events
  events.onopen = () => {
    live.value = true
    void attempt(() => load(mine))
  }
  events.onerror = () => {
    live.value = false
    if (events.readyState === EventSource.CLOSED) window.setTimeout(() => mine === generation && connect(), 2000)
  }
  events.addEventListener('endpoints', (e) => (status.value = JSON.parse(e.data) as Status))
  events.addEventListener('cleared', forget)
  events.addEventListener('requests', (e) => {
    const { requests } = JSON.parse(e.data) as { requests: Summary[] }
    if (paused.value) {
      const known = requests.filter((r) => rows.value.has(r.id))
      if (known.length) merge(known)
      const fresh = new Map(held.value.map((r) => [r.id, r]))
      for (const r of requests) if (!rows.value.has(r.id)) fresh.set(r.id, r)
      held.value = [...fresh.values()].slice(-maxRows)
    } else {
      merge(requests)
    }
    if (requests.some((r) => r.id === selected.value)) void refresh()
  })
}

async function load(mine: number) {
  const session = await api.openSession()
  version.value = session.version
  inspecting.value = session.inspecting
  if (session.inspecting) {
    const page = await api.list(filter.value)
    if (mine !== generation) return
    rows.value = new Map(page.requests.map((r) => [r.id, r]))
    held.value = []
    older.value = page.next
    if (selected.value) void refresh()
  }
  loaded.value = true
}

export async function loadOlder() {
  if (!older.value) return
  const page = await api.list(filter.value, older.value)
  merge(page.requests)
  older.value = page.next
}

let filterTimer = 0
export function setFilter(change: Partial<Filter>) {
  filter.value = { ...filter.value, ...change }
  clearTimeout(filterTimer)
  filterTimer = window.setTimeout(connect, 200)
}

let refreshing = false
let again = false

/** Fetches the shown request anew; while one fetch is under way, once more after it. */
export async function refresh() {
  if (refreshing) {
    again = true
    return
  }
  refreshing = true
  do {
    again = false
    const id = selected.value
    if (!id) break
    await attempt(async () => {
      const d = await api.detail(id, secrets.value)
      if (selected.value === id) shown.value = d
    })
  } while (again)
  refreshing = false
}

/** Follows the address: #/7 shows a request, #/7/9 compares two. */
export function route() {
  const [, a, b] = location.hash.split('/')
  compared.value = a && b ? [a, b] : undefined
  const id = b ? undefined : a || undefined
  if (id === selected.value) return
  selected.value = id
  secrets.value = false
  shown.value = undefined
  if (id) void refresh()
}

export function select(id: string | undefined) {
  location.hash = id ? `#/${id}` : ''
}

export async function showSecrets(on: boolean) {
  secrets.value = on
  await refresh()
}

/** Marks a request, or compares it with the one that was marked before. */
export function mark(id: string) {
  if (!marked.value) {
    marked.value = id
    say('Marked. Open another request and compare it with this one.')
  } else if (marked.value === id) {
    marked.value = undefined
  } else {
    location.hash = `#/${marked.value}/${id}`
    marked.value = undefined
  }
}

export async function replay(id: string, edit?: api.Edit) {
  const made = await api.replay(id, edit)
  say(edit ? 'Sent with your changes.' : 'Sent again.')
  select(made.id)
}

export async function copy(text: string, what: string) {
  await navigator.clipboard.writeText(text)
  say(`${what} copied.`)
}

export function download(blob: Blob, name: string) {
  const url = URL.createObjectURL(blob)
  const a = document.createElement('a')
  a.href = url
  a.download = name
  a.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}
