import './style.css'
import { Session } from '../protocol/session'
import { Draft } from '../store/draft'
import { History } from '../store/history'
import { Memory, tokenIn } from '../store/memory'
import { App } from './app'

function storage(name: 'localStorage' | 'sessionStorage'): Storage | null {
  try {
    return window[name]
  } catch {
    return null
  }
}

function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

const memory = new Memory(storage('localStorage'))
const token = tokenIn(location.hash)
if (token !== null) {
  memory.token = token
  history.replaceState(null, '', location.pathname + location.search)
}
const about = () => ({ client: 'megen web', token: memory.token, decodeS: memory.decodeS })
void new App(new Session(about, newId), memory, new Draft(storage('sessionStorage')), new History()).start()
if ('serviceWorker' in navigator) void navigator.serviceWorker.register('/sw.js').catch(() => undefined)
