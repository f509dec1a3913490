import { useEffect, useMemo, useState } from 'preact/hooks'
import type { Body, Part } from './api'
import { bytes, fromBase64, hex, prettyJSON, prettyXML, tokensOfJSON, tokensOfXML, type Token } from './format'
import { Button } from './parts'
import { attempt, copy, download } from './store'

/** How much text is coloured; more is shown plain. */
const maxColoured = 300_000
const maxHex = 64 * 1024

type View = 'pretty' | 'raw' | 'form' | 'image' | 'hex'

function mediaType(body: { content_type?: string }): string {
  return (body.content_type ?? '').split(';')[0]!.trim().toLowerCase()
}

const images = /^image\/(png|jpeg|gif|webp|avif|bmp|svg\+xml|x-icon|vnd\.microsoft\.icon)$/

/** Bytes of a body, which may have come as text. */
export function bytesOf(body: { text?: string; base64?: string }): Uint8Array<ArrayBuffer> {
  return body.base64 !== undefined ? fromBase64(body.base64) : new Uint8Array(new TextEncoder().encode(body.text ?? ''))
}

interface Shape {
  pretty?: string
  tokens?: (text: string) => Token[]
}

function shapeOf(text: string, type: string): Shape {
  if (/json/.test(type) || /^\s*[{[]/.test(text)) {
    const pretty = prettyJSON(text)
    if (pretty !== undefined) return { pretty, tokens: tokensOfJSON }
  }
  if (/xml|html/.test(type)) return { pretty: /html/.test(type) ? text : prettyXML(text), tokens: tokensOfXML }
  return {}
}

export function Coloured({ text, tokens }: { text: string; tokens?: (text: string) => Token[] }) {
  if (!tokens || text.length > maxColoured) return <pre class="code">{text}</pre>
  return (
    <pre class="code">
      {tokens(text).map(([kind, piece], i) => (kind && kind !== 'space' ? <span key={i} class={`t-${kind}`}>{piece}</span> : piece))}
    </pre>
  )
}

/** Text as nicely as it can be shown. */
export function Pretty({ text, type = '' }: { text: string; type?: string }) {
  const shape = useMemo(() => shapeOf(text, type), [text, type])
  return <Coloured text={shape.pretty ?? text} tokens={shape.tokens} />
}

export function Hex({ data }: { data: Uint8Array }) {
  return (
    <>
      <pre class="code hex">{hex(data, maxHex)}</pre>
      {data.length > maxHex && <p class="fine">The first {bytes(maxHex)} of it.</p>}
    </>
  )
}

function Image({ body }: { body: { text?: string; base64?: string; content_type?: string } }) {
  const [url, setURL] = useState('')
  const [size, setSize] = useState('')
  useEffect(() => {
    // An image is no document: scripts in an SVG don't run in it.
    const made = URL.createObjectURL(new Blob([bytesOf(body)], { type: mediaType(body) }))
    setURL(made)
    return () => URL.revokeObjectURL(made)
  }, [body.text, body.base64])
  return (
    <figure class="image">
      {url && (
        <img
          src={url}
          alt="The body as an image"
          onLoad={(e) => setSize(`${e.currentTarget.naturalWidth} × ${e.currentTarget.naturalHeight}`)}
          onError={() => setSize('This image can’t be shown.')}
        />
      )}
      <figcaption>{size}</figcaption>
    </figure>
  )
}

function Form({ parts }: { parts: Part[] }) {
  return (
    <table class="form">
      <tbody>
        {parts.map((p, i) => (
          <tr key={i}>
            <th scope="row">{p.name || '–'}</th>
            <td>
              {p.filename && (
                <span class="file">
                  {p.filename} <span class="fine">{p.content_type} {bytes(p.size)}</span>
                </span>
              )}
              {p.content_type && images.test(p.content_type) && (p.base64 || p.value) ? (
                <Image body={{ base64: p.base64, text: p.value, content_type: p.content_type }} />
              ) : p.base64 ? (
                <Hex data={fromBase64(p.base64)} />
              ) : (
                <Pretty text={p.value ?? ''} type={p.content_type} />
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

const labels: Record<View, string> = { pretty: 'Pretty', raw: 'Raw', form: 'Form', image: 'Image', hex: 'Hex' }

export function BodyView({ body, name }: { body: Body; name: string }) {
  const type = mediaType(body)
  const text = body.text
  const shape = useMemo(() => (text ? shapeOf(text, type) : {}), [text, type])
  const views: View[] = []
  if (images.test(type) && (body.base64 || text)) views.push('image')
  if (body.form) views.push('form')
  if (shape.pretty !== undefined) views.push('pretty')
  if (text) views.push('raw')
  if (text || body.base64) views.push('hex')
  const [chosen, choose] = useState<View | undefined>(undefined)
  const view = chosen && views.includes(chosen) ? chosen : views[0]

  if (body.size === 0) return <p class="none">No body.</p>
  return (
    <div class="body">
      <div class="bodybar">
        <div class="segments" role="group" aria-label="How the body is shown">
          {views.map((v) => (
            <button type="button" key={v} aria-pressed={v === view} onClick={() => choose(v)}>
              {labels[v]}
            </button>
          ))}
        </div>
        <span class="fine">
          {type || 'no type'} · {bytes(body.size)}
          {body.encoding ? ` · ${body.encoding}` : ''}
        </span>
        <span class="gap" />
        {text && <Button icon="copy" label="Copy the body" onClick={() => void attempt(() => copy(view === 'pretty' ? (shape.pretty ?? text) : text, 'Body'))} />}
        <Button icon="save" label="Save the body" onClick={() => download(new Blob([bytesOf(body)]), name)} />
      </div>
      {body.cut && <p class="warning">Cut: only the beginning was kept. --inspect-body sets how much.</p>}
      {body.error && <p class="warning">It could not be decoded: {body.error}. It is shown as far as it could.</p>}
      {view === 'image' && <Image body={body} />}
      {view === 'form' && <Form parts={body.form!} />}
      {view === 'pretty' && <Coloured text={shape.pretty!} tokens={shape.tokens} />}
      {view === 'raw' && <Coloured text={text!} />}
      {view === 'hex' && <Hex data={bytesOf(body)} />}
    </div>
  )
}
