import { useEffect, useRef, useState } from 'preact/hooks'
import type { Detail, Frame } from './api'
import { Hex, Pretty } from './body'
import { bytes, duration, fromBase64, plural } from './format'
import { Icon } from './parts'

/** Messages as they come, the newest at the bottom, where the view stays if it is there. */
export function Frames({ d }: { d: Detail }) {
  const frames = d.messages ?? []
  const end = useRef<HTMLLIElement>(null)
  const follow = useRef(true)
  const [filter, setFilter] = useState('')
  useEffect(() => {
    const panel = end.current?.closest('.panel')
    if (!panel) return
    const onScroll = () => (follow.current = panel.scrollHeight - panel.scrollTop - panel.clientHeight < 80)
    panel.addEventListener('scroll', onScroll)
    return () => panel.removeEventListener('scroll', onScroll)
  }, [])
  useEffect(() => {
    if (follow.current && d.state === 'open') end.current?.scrollIntoView({ block: 'end' })
  }, [frames.length])
  const shown = filter ? frames.filter((f) => (f.text ?? '').toLowerCase().includes(filter.toLowerCase()) || f.event === filter) : frames
  const sent = frames.filter((f) => !f.to_visitor).length
  return (
    <div class="frames">
      <div class="bodybar">
        <input type="search" placeholder="Filter" aria-label="Filter messages" value={filter} onInput={(e) => setFilter(e.currentTarget.value)} />
        <span class="fine">
          {sent > 0 && `${sent} from the visitor, `}
          {frames.length - sent} to the visitor
          {d.messages_dropped ? `, ${plural(d.messages_dropped, 'older one')} dropped` : ''}
        </span>
        <span class="gap" />
        {d.state === 'open' && <span class="livedot">live</span>}
      </div>
      <ol>
        {shown.map((f, i) => (
          <FrameRow key={(d.messages_dropped ?? 0) + i} f={f} grpc={d.kind === 'grpc'} />
        ))}
        <li ref={end} class="end" aria-hidden="true" />
      </ol>
      {frames.length === 0 && <p class="none">Nothing yet.</p>}
    </div>
  )
}

const names: Record<string, string> = { text: '', binary: 'binary', message: '', event: '' }

function FrameRow({ f, grpc }: { f: Frame; grpc: boolean }) {
  const [open, setOpen] = useState(false)
  const text = f.text ?? ''
  const long = text.length > 160 || text.includes('\n') || f.base64 !== undefined
  const label = f.event && f.event !== 'message' ? f.event : (names[f.type] ?? f.type)
  const preview = f.base64 !== undefined ? bytes(f.size) + (grpc ? ' message' : ' of binary data') : text || '(empty)'
  return (
    <li class={`frame ${f.to_visitor ? 'down' : 'up'}${f.type === 'ping' || f.type === 'pong' || f.type === 'close' ? ' control' : ''}`}>
      <button type="button" aria-expanded={long ? open : undefined} disabled={!long} onClick={() => setOpen(!open)}>
        <span class="arrow" title={f.to_visitor ? 'to the visitor' : 'from the visitor'}>
          <Icon name={f.to_visitor ? 'down' : 'up'} />
        </span>
        {label && <span class="tag">{label}</span>}
        {f.id && <span class="tag">#{f.id}</span>}
        <span class="preview">{preview.slice(0, 300)}</span>
        {f.compressed && <span class="fine">{f.opaque ? 'compressed' : 'deflated'}</span>}
        {f.cut && <span class="tag bad">cut</span>}
        <span class="fine">{bytes(f.size)}</span>
        <time class="fine">+{duration(f.at)}</time>
      </button>
      {open && (f.base64 !== undefined ? <Hex data={fromBase64(f.base64)} /> : <Pretty text={text} />)}
    </li>
  )
}
