// The agent's local API, as docs/inspector.md describes it.

export interface Summary {
  id: string
  endpoint: string
  visitor?: string
  replay_of?: string
  edited?: boolean
  kind: 'http' | 'websocket' | 'events' | 'grpc'
  state: 'open' | 'done' | 'failed'
  protocol: string
  method: string
  host?: string
  path: string
  status?: number
  start: string
  duration_ms: number
  request_size: number
  response_size: number
  content_type?: string
  frames?: number
  gap?: boolean
  unreached?: string
}

export interface Part {
  name: string
  value?: string
  base64?: string
  filename?: string
  content_type?: string
  size: number
}

export interface Body {
  size: number
  content_type?: string
  encoding?: string
  cut?: boolean
  error?: string
  text?: string
  base64?: string
  form?: Part[]
}

export interface Message {
  line: string
  headers: [string, string][]
  trailers?: [string, string][]
  body: Body
}

export interface Frame {
  at: number
  to_visitor: boolean
  type: string
  event?: string
  id?: string
  size: number
  text?: string
  base64?: string
  cut?: boolean
  compressed?: boolean
  opaque?: boolean
}

export interface Detail extends Summary {
  url: string
  timing: { request_end?: number; first_byte?: number; end?: number }
  interim?: number[]
  request: Message
  response: Message
  messages?: Frame[]
  messages_dropped?: number
  redacted: boolean
  repeatable: boolean
  not_repeatable?: string
}

export interface Endpoint {
  name: string
  kind: string
  state: string
  url?: string
  urls?: string[]
  upstream: string
  upstream_healthy: boolean
  error?: string
}

export interface Status {
  server: string
  connected: boolean
  node?: string
  latency_ms?: number
  error?: string
  endpoints: Endpoint[] | null
}

export interface Edit {
  method?: string
  path?: string
  headers?: [string, string][]
  body?: string
}

export interface Filter {
  status: string
  method: string
  path: string
  text: string
  endpoint: string
}

/** The run's secret, which state-changing calls and credentials need. */
let secret = ''

export interface Session {
  secret: string
  version: string
  inspecting: boolean
}

/** The agent may be a new one since the page was opened, with another secret. */
export async function openSession(): Promise<Session> {
  const session = await call<Session>('POST', '/api/session')
  secret = session.secret
  return session
}

async function send(method: string, path: string, body?: unknown): Promise<Response> {
  const response = await fetch(path, {
    method,
    headers: { 'Culvert-Secret': secret },
    body: body === undefined ? undefined : JSON.stringify(body),
  })
  if (!response.ok) {
    const problem = (await response.json().catch(() => ({}))) as { error?: string }
    throw new Error(problem.error ?? `the agent answered ${response.status}`)
  }
  return response
}

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await send(method, path, body)).json() as Promise<T>
}

export function queryOf(filter: Filter): URLSearchParams {
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(filter)) {
    if (value) query.set(key, value)
  }
  return query
}

export function list(filter: Filter, before?: string) {
  const query = queryOf(filter)
  query.set('limit', '200')
  if (before) query.set('before', before)
  return call<{ requests: Summary[]; next?: string; kept: number }>('GET', `/api/requests?${query}`)
}

const withSecrets = (secrets: boolean) => (secrets ? '?secrets=1' : '')

export const detail = (id: string, secrets = false) => call<Detail>('GET', `/api/requests/${id}${withSecrets(secrets)}`)
export const replay = (id: string, edit?: Edit) => call<{ id: string }>('POST', `/api/requests/${id}/replay`, edit)
export const clear = () => send('DELETE', '/api/requests')
export const curl = async (id: string, secrets: boolean) => (await send('GET', `/api/requests/${id}/curl${withSecrets(secrets)}`)).text()
export const har = async (id: string, secrets: boolean) => (await send('GET', `/api/requests/${id}/har${withSecrets(secrets)}`)).blob()
export const harOf = async (filter: Filter) => (await send('GET', `/api/har?${queryOf(filter)}`)).blob()
