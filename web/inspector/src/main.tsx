import { render } from 'preact'
import { App } from './app'
import { startKeys } from './keys'
import { connect, route } from './store'
import { startTheme } from './theme'

startTheme()
startKeys()
addEventListener('hashchange', route)
route()
connect()
render(<App />, document.getElementById('app')!)
