import { useState } from 'preact/hooks'
import type { Detail, Edit as Change } from './api'
import { editing } from './keys'
import { Button, Dialog } from './parts'
import { attempt, replay } from './store'

const untouchable = /^(connection|content-length|transfer-encoding|keep-alive|upgrade|te|trailer|expect|proxy-connection)$/i

/** A request as text, changed and sent. Hidden values that are left alone stay as they were. */
export function Edit({ d }: { d: Detail }) {
  const headers = d.request.headers.filter(([name]) => !untouchable.test(name))
  const binary = d.request.body.base64 !== undefined
  const [method, setMethod] = useState(d.method)
  const [path, setPath] = useState(d.path)
  const [fields, setFields] = useState(headers.map(([n, v]) => `${n}: ${v}`).join('\n'))
  const [body, setBody] = useState(d.request.body.text ?? '')
  const close = () => (editing.value = false)
  const send = () =>
    attempt(async () => {
      const edit: Change = { method, path }
      edit.headers = fields
        .split('\n')
        .filter((line) => line.trim() !== '')
        .map((line) => {
          const at = line.indexOf(':')
          if (at < 1) throw new Error(`“${line}” is no header: write Name: value`)
          return [line.slice(0, at).trim(), line.slice(at + 1).trim()]
        })
      if (!binary && body !== (d.request.body.text ?? '')) edit.body = body
      await replay(d.id, edit)
      close()
    })
  return (
    <Dialog label="Edit and replay" wide onClose={close}>
      <form
        class="edit"
        onSubmit={(e) => {
          e.preventDefault()
          void send()
        }}
        onKeyDown={(e) => e.key === 'Enter' && (e.ctrlKey || e.metaKey) && void send()}
      >
        <div class="first">
          <input class="method" aria-label="Method" value={method} onInput={(e) => setMethod(e.currentTarget.value.toUpperCase())} spellcheck={false} />
          <input class="target" aria-label="Path and query" value={path} onInput={(e) => setPath(e.currentTarget.value)} spellcheck={false} />
        </div>
        <label>
          Headers
          <textarea rows={Math.min(headers.length + 1, 12)} value={fields} onInput={(e) => setFields(e.currentTarget.value)} spellcheck={false} />
        </label>
        {binary ? (
          <p class="fine">The body is binary and is sent as it was.</p>
        ) : (
          <label>
            Body
            <textarea rows={Math.min(Math.max(body.split('\n').length + 1, 5), 16)} value={body} onInput={(e) => setBody(e.currentTarget.value)} spellcheck={false} />
          </label>
        )}
        <div class="actions">
          <span class="fine">{d.redacted ? 'Credentials that are hidden in headers stay as they were.' : 'It goes to the upstream directly.'}</span>
          <span class="gap" />
          <Button text icon="close" label="Cancel" onClick={close} />
          <Button text primary icon="replay" label="Send" title="Ctrl+Enter" onClick={() => void send()} />
        </div>
      </form>
    </Dialog>
  )
}
