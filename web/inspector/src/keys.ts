import { signal } from '@preact/signals'
import * as api from './api'
import { attempt, copy, mark, paused, replay, secrets, select, selected, setPaused, showSecrets, sorted } from './store'

export const helpOpen = signal(false)
export const editing = signal(false)

export const keys: readonly (readonly [string, string])[] = [
  ['j / k', 'next / previous request'],
  ['Enter', 'open the first request'],
  ['Esc', 'back to the list'],
  ['/', 'search'],
  ['r', 'replay'],
  ['e', 'edit and replay'],
  ['c', 'copy as curl'],
  ['x', 'mark for comparing, then compare'],
  ['s', 'show or hide credentials'],
  ['p', 'pause or go on'],
  ['?', 'this help'],
]

function move(by: number) {
  const list = sorted.value
  if (list.length === 0) return
  const at = list.findIndex((r) => r.id === selected.value)
  const next = list[Math.min(Math.max(at < 0 ? 0 : at + by, 0), list.length - 1)]
  if (next) {
    select(next.id)
    requestAnimationFrame(() => document.querySelector(`[data-row="${next.id}"]`)?.scrollIntoView({ block: 'nearest' }))
  }
}

function forSelected(id: string, key: string) {
  switch (key) {
    case 'r':
      return void attempt(() => replay(id))
    case 'e':
      return void (editing.value = true)
    case 'c':
      return void attempt(async () => copy(await api.curl(id, secrets.value), 'curl command'))
    case 'x':
      return mark(id)
    case 's':
      return void showSecrets(!secrets.value)
  }
}

export function startKeys() {
  addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return
    const target = e.target as HTMLElement
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) {
      if (e.key === 'Escape') target.blur()
      return
    }
    switch (e.key) {
      case 'j':
      case 'ArrowDown':
        move(1)
        break
      case 'k':
      case 'ArrowUp':
        move(-1)
        break
      case 'Enter':
        if (target !== document.body || selected.value) return
        move(0)
        break
      case 'Escape':
        select(undefined)
        break
      case '/':
        document.querySelector<HTMLInputElement>('#search')?.focus()
        break
      case 'p':
        setPaused(!paused.value)
        break
      case '?':
        helpOpen.value = true
        break
      default:
        if (selected.value && 'recxs'.includes(e.key)) {
          forSelected(selected.value, e.key)
          break
        }
        return
    }
    e.preventDefault()
  })
}
