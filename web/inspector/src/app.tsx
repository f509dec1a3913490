import { Compare } from './compare'
import { DetailPane } from './detail'
import { helpOpen, keys } from './keys'
import { Endpoints, List } from './list'
import { Button, Dialog } from './parts'
import { compared, live, notice, selected, status, version } from './store'
import { duration } from './format'
import { theme, toggleTheme } from './theme'

export function App() {
  const open = compared.value || selected.value
  return (
    <div class={`app${open ? ' opened' : ''}`}>
      <Top />
      <main>
        <List />
        {compared.value ? <Compare ids={compared.value} key={compared.value.join()} /> : <DetailPane />}
      </main>
      {helpOpen.value && (
        <Dialog label="Keys" onClose={() => (helpOpen.value = false)}>
          <dl class="keys">
            {keys.map(([key, what]) => (
              <div key={key}>
                <dt>
                  <kbd>{key}</kbd>
                </dt>
                <dd>{what}</dd>
              </div>
            ))}
          </dl>
          <p class="fine">Culvert {version.value}. Nothing here leaves this machine or is written to disk.</p>
        </Dialog>
      )}
      <div class={`notice${notice.value ? ' visible' : ''}${notice.value?.bad ? ' bad' : ''}`} role="status" aria-live="polite">
        {notice.value?.text}
      </div>
    </div>
  )
}

function Top() {
  const s = status.value
  const connected = live.value && s?.connected
  const says = !live.value ? 'The agent is gone' : s?.connected ? 'Connected' : 'Connecting'
  return (
    <header class="top">
      <a class="brand" href="#" aria-label="Culvert inspector, all requests">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="9" />
          <path class="arch" d="M6.500 24v-6a9.500 9.500 0 0 1 19 0v6" />
          <path class="water" d="M11 22.500c1.700-1.500 3.300-1.500 5 0s3.300 1.500 5 0" />
        </svg>
        <span>Culvert</span>
      </a>
      <Endpoints />
      <div class={`link ${connected ? 'up' : 'down'}`} title={s ? `${says} to ${s.server}${s.node ? `, node ${s.node}` : ''}` : says}>
        <i />
        <span>{says}</span>
        {connected && s.latency_ms ? <span class="latency">{duration(s.latency_ms)}</span> : null}
      </div>
      <Button icon="help" label="Keys and help" onClick={() => (helpOpen.value = true)} />
      <Button icon={theme.value === 'dark' ? 'sun' : 'moon'} label={theme.value === 'dark' ? 'Light colours' : 'Dark colours'} onClick={toggleTheme} />
    </header>
  )
}
