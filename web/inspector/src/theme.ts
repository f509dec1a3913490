import { signal } from '@preact/signals'

// Light or dark as the system has it, until somebody chooses.

const dark = matchMedia('(prefers-color-scheme: dark)')
export const theme = signal<'light' | 'dark'>('light')

function stored(): string | null {
  try {
    return localStorage.getItem('theme')
  } catch {
    return null
  }
}

function apply() {
  const chosen = stored()
  theme.value = chosen === 'light' || chosen === 'dark' ? chosen : dark.matches ? 'dark' : 'light'
  document.documentElement.dataset.theme = theme.value
}

export function startTheme() {
  dark.addEventListener('change', apply)
  apply()
}

export function toggleTheme() {
  try {
    localStorage.setItem('theme', theme.value === 'dark' ? 'light' : 'dark')
  } catch {
    return
  }
  apply()
}
