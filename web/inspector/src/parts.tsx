import type { ComponentChildren } from 'preact'
import { useEffect, useRef } from 'preact/hooks'
import type { Summary } from './api'

const paths = {
  replay: 'M20 12a8 8 0 1 1-2.5-5.800M20 4v4.500h-4.5',
  edit: 'M4 20l1-4.500L16 4.500l3.5 3.500L8.5 19zM14 6.500l3.5 3.5',
  terminal: 'M4 5h16v14H4zM7.5 9.500l3 2.5-3 2.500M12.5 15h4',
  save: 'M12 4v11m-4.5-4l4.5 4.5 4.5-4.500M5 20h14',
  compare: 'M5 4h5v16H5zM14 4h5v16h-5z',
  eye: 'M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6',
  pause: 'M7.5 5.5h2.500v13H7.5zM14 5.5h2.500v13H14z',
  play: 'M8 5l11 7-11 7z',
  trash: 'M5 7h14M10 7V4.500h4V7M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  back: 'M14.5 5L8 12l6.5 7',
  close: 'M6 6l12 12M18 6L6 18',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2.500v2M12 19.500v2M2.5 12h2M19.5 12h2M5.3 5.300l1.4 1.400M17.3 17.300l1.4 1.400M18.7 5.300l-1.4 1.400M6.7 17.300l-1.4 1.4',
  moon: 'M20 14.500A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.500z',
  help: 'M8.4 8.6a3.7 3.7 0 1 1 5.6 3.2c-1.4.8-2 1.6-2 3.1M12 18.9v.1',
  up: 'M12 19V5m-6 6l6-6 6 6',
  down: 'M12 5v14m-6-6l6 6 6-6',
} as const

export function Icon({ name }: { name: keyof typeof paths }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  )
}

interface ButtonProps {
  icon: keyof typeof paths
  label: string
  text?: boolean
  primary?: boolean
  pressed?: boolean
  disabled?: boolean
  title?: string
  onClick: () => void
}

/** A button with an icon; its name is said also where it is not shown. */
export function Button({ icon, label, text, primary, pressed, disabled, title, onClick }: ButtonProps) {
  return (
    <button
      type="button"
      class={`button${primary ? ' primary' : ''}${text ? '' : ' bare'}`}
      aria-label={text ? undefined : label}
      aria-pressed={pressed}
      title={title ?? (text ? undefined : label)}
      disabled={disabled}
      onClick={onClick}
    >
      <Icon name={icon} />
      {text && <span>{label}</span>}
    </button>
  )
}

export function statusClass(row: Summary): string {
  if (row.state === 'failed') return 'failed'
  if (!row.status) return 'open'
  if (row.status === 101) return 's2'
  return `s${Math.floor(row.status / 100)}`
}

export function StatusBadge({ row }: { row: Summary }) {
  const text = row.status || (row.unreached ? 'down' : row.state === 'failed' ? 'cut' : '···')
  const says = row.unreached ? 'the upstream could not be reached' : row.state === 'failed' ? 'the connection ended early' : row.status ? `status ${row.status}` : 'no answer yet'
  return (
    <span class={`status ${statusClass(row)}`} title={says} aria-label={says} role="img">
      {text}
    </span>
  )
}

/** A modal dialog that is open as long as it is rendered. */
export function Dialog({ label, wide, onClose, children }: { label: string; wide?: boolean; onClose: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    const dialog = ref.current!
    dialog.showModal()
    return () => dialog.close()
  }, [])
  return (
    <dialog ref={ref} class={wide ? 'wide' : ''} aria-label={label} onCancel={onClose} onClick={(e) => e.target === ref.current && onClose()}>
      <div class="dialog">
        <header>
          <h2>{label}</h2>
          <Button icon="close" label="Close" onClick={onClose} />
        </header>
        {children}
      </div>
    </dialog>
  )
}
