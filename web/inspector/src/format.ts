export function bytes(n: number): string {
  if (n < 1000) return `${n} B`
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e4 ? 1 : 0)} kB`
  return `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`
}

export function duration(ms: number): string {
  if (ms < 1) return `${ms.toFixed(2)} ms`
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`
}

export function clock(iso: string): string {
  return new Date(iso).toLocaleTimeString(undefined, { hour12: false })
}

export const plural = (n: number, word: string) => `${n.toLocaleString()} ${word}${n === 1 ? '' : 's'}`

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text)
  const out = new Uint8Array(binary.length)
  for (let i = 0; i < binary.length; i++) out[i] = binary.charCodeAt(i)
  return out
}

export function hex(data: Uint8Array, limit: number): string {
  const lines: string[] = []
  for (let at = 0; at < Math.min(data.length, limit); at += 16) {
    const piece = [...data.subarray(at, at + 16)]
    const codes = piece.map((b) => b.toString(16).padStart(2, '0'))
    const left = codes.slice(0, 8).join(' ').padEnd(23)
    const right = codes.slice(8).join(' ').padEnd(23)
    const plain = piece.map((b) => (b >= 32 && b < 127 ? String.fromCharCode(b) : '·')).join('')
    lines.push(`${at.toString(16).padStart(6, '0')}  ${left}  ${right}  ${plain}`)
  }
  return lines.join('\n')
}

/** A piece of text and what it is, for colours. */
export type Token = readonly [kind: string, text: string]

/** JSON with line breaks and indentation; undefined if it is none. */
export function prettyJSON(text: string): string | undefined {
  try {
    JSON.parse(text)
  } catch {
    return undefined
  }
  // Not JSON.stringify, which would change long numbers and drop double keys.
  let out = ''
  let depth = 0
  const line = () => (out += '\n' + '  '.repeat(depth))
  for (const [kind, piece] of tokensOfJSON(text)) {
    if (kind === 'space') continue
    if (piece === '{' || piece === '[') {
      out += piece
      depth++
      line()
    } else if (piece === '}' || piece === ']') {
      depth--
      if (/[{[]\s*$/.test(out.slice(-200))) out = out.trimEnd()
      else line()
      out += piece
    } else if (piece === ',') {
      out += piece
      line()
    } else if (piece === ':') {
      out += ': '
    } else {
      out += piece
    }
  }
  return out
}

const json = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d[\d.eE+-]*)|(true|false|null)|([{}[\],:])|(\s+)|([^\s])/g

export function tokensOfJSON(text: string): Token[] {
  const out: Token[] = []
  for (const m of text.matchAll(json)) {
    if (m[1] !== undefined) {
      out.push([m[2] ? 'key' : 'string', m[1]])
      if (m[2]) out.push(['mark', ':'])
    } else if (m[3] !== undefined) out.push(['number', m[3]])
    else if (m[4] !== undefined) out.push(['word', m[4]])
    else if (m[5] !== undefined) out.push(['mark', m[5]])
    else if (m[6] !== undefined) out.push(['space', m[6]])
    else out.push(['', m[0]])
  }
  return out
}

const xml = /(<!--[\s\S]*?-->|<\?[\s\S]*?\?>|<![^>]*>)|(<\/?)([^\s<>/]+)((?:\s+[^<>]*?)?)(\/?>)|([^<]+)|(<)/g

/** XML with an element a line. */
export function prettyXML(text: string): string {
  let out = ''
  let depth = 0
  let inline = false
  for (const m of text.matchAll(xml)) {
    const pad = () => (out ? '\n' : '') + '  '.repeat(Math.max(depth, 0))
    if (m[2] === '</') {
      depth--
      out += (inline ? '' : pad()) + m[0]
      inline = false
    } else if (m[2]) {
      out += pad() + m[0]
      inline = false
      if (m[5] !== '/>') depth++
      if (m[5] !== '/>') inline = true
    } else if (m[6] !== undefined) {
      const t = m[6].trim()
      if (t) {
        out += inline ? t : pad() + t
        inline = inline && !t.includes('\n')
      }
    } else {
      out += pad() + m[0]
      inline = false
    }
  }
  return out
}

export function tokensOfXML(text: string): Token[] {
  const out: Token[] = []
  for (const m of text.matchAll(xml)) {
    if (m[1] !== undefined) out.push(['comment', m[1]])
    else if (m[3] !== undefined) {
      out.push(['mark', m[2]!], ['key', m[3]])
      for (const a of (m[4] ?? '').matchAll(/("[^"]*"|'[^']*')|([^"']+)/g)) out.push([a[1] ? 'string' : 'word', a[0]])
      out.push(['mark', m[5]!])
    } else out.push(['', m[0]])
  }
  return out
}

/** The lines of two texts side by side; undefined if they are too long to compare. */
export function diffLines(a: string[], b: string[]): (readonly [string | undefined, string | undefined])[] | undefined {
  if (a.length * b.length > 4_000_000) return undefined
  const width = b.length + 1
  const length = new Uint32Array((a.length + 1) * width)
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i * width + j] =
        a[i] === b[j] ? length[(i + 1) * width + j + 1]! + 1 : Math.max(length[(i + 1) * width + j]!, length[i * width + j + 1]!)
    }
  }
  const out: (readonly [string | undefined, string | undefined])[] = []
  const left: string[] = []
  const right: string[] = []
  const flush = () => {
    for (let k = 0; k < Math.max(left.length, right.length); k++) out.push([left[k], right[k]])
    left.length = right.length = 0
  }
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      flush()
      out.push([a[i++], b[j++]])
    } else if (j >= b.length || (i < a.length && length[(i + 1) * width + j]! >= length[i * width + j + 1]!)) {
      left.push(a[i++]!)
    } else {
      right.push(b[j++]!)
    }
  }
  flush()
  return out
}
