import { type About, ackOf, Connection, type Parts } from './connection'
import { FEATURES, type Frame } from './frames'
import { type Accepted, type Coded, type Done, type Failure, type FromServer, type Generate, ProtocolError, type Stepped, type Welcome } from './messages'

const LEAST_WAIT_MS = 200
/** Between two tries with a request on its way, and without one. */
const MOST_WAIT_MS = 5_000
const MOST_IDLE_WAIT_MS = 30_000
const GREETING_MS = 10_000
/** Without any message while a request runs. */
const SILENT_MS = 30_000
/** How long a server keeps a request for a resume. */
export const PATIENCE_MS = 600_000

/** What the shell does: it has one socket and one timer. */
export type Action =
  | { readonly do: 'connect' }
  | { readonly do: 'close' }
  | { readonly do: 'send'; readonly text: string }
  | { readonly do: 'timer'; readonly ms: number | null }
  | { readonly do: 'tell'; readonly news: News }

/** What the page hears of the connection, and of the request where it is no message. */
export type Notice =
  | { readonly kind: 'link'; readonly state: 'connecting' | 'open' }
  | { readonly kind: 'link'; readonly state: 'waiting'; readonly why: string; readonly ms: number; /** The server is there, and said why. */ readonly refused: boolean }
  | { readonly kind: 'again'; readonly why: string; readonly ms: number }
  | { readonly kind: 'unauthorised'; readonly why: string }
  | { readonly kind: 'failed'; readonly why: string }
  | { readonly kind: 'anew'; readonly why: string }
  | { readonly kind: 'part' | 'preview'; readonly frame: Frame }

/** What the server says of the request. */
export type Reply = Accepted | Stepped | Coded | (Done & { readonly bytes: number; readonly reconnects: number })

/** What the page hears. */
export type News = Notice | Welcome | Reply

interface Asking {
  message: Generate
  readonly parts: Parts
  readonly beganMs: number
  accepted: boolean
  reconnects: number
  bytes: number
}

/** A user equipment's connection through all its cuts, and the one request on it, without socket and clock. */
export class Session {
  #phase: 'off' | 'connecting' | 'greeting' | 'open' | 'again' | 'waiting' | 'unauthorised' = 'off'
  #connection = new Connection()
  #asking: Asking | null = null
  #cancels: string[] = []
  #waitMs = LEAST_WAIT_MS
  #lastMs = 0

  readonly #about: () => About
  readonly #newId: () => string
  readonly #random: () => number

  constructor(about: () => About, newId: () => string, random: () => number = Math.random) {
    this.#about = about
    this.#newId = newId
    this.#random = random
  }

  /** Connect; also at once instead of later, and anew with what changed about this side. */
  renew(): Action[] {
    if (this.#asking !== null && ['connecting', 'greeting', 'open', 'again'].includes(this.#phase)) return []
    return [...(this.#phase === 'off' || this.#phase === 'waiting' ? [] : [close]), ...this.#connect()]
  }

  /** Connect at once where the next try is still due: the network came back, or the page is looked at. */
  hurry(): Action[] {
    return this.#phase === 'waiting' ? this.#connect() : []
  }

  /** The id of the request. */
  get request(): string | null {
    return this.#asking?.message.id ?? null
  }

  /** Ask for a picture; one at a time. */
  ask(fields: Omit<Generate, 'type' | 'id'>, nowMs: number): Action[] {
    return this.#begin({ type: 'generate', id: this.#newId(), ...fields }, nowMs, false)
  }

  /** Go on with a request that began before the page was loaded again. */
  resume(id: string, fields: Omit<Generate, 'type' | 'id'>, beganMs: number): Action[] {
    return this.#begin({ type: 'generate', id, ...fields }, beganMs, true)
  }

  /** Stop the request. The server hears of it, if need be with the next connection. */
  cancel(): Action[] {
    if (this.#asking === null) return []
    this.#cancels.push(this.#asking.message.id)
    this.#asking = null
    if (this.#phase === 'again') this.#phase = 'open'
    return this.#phase === 'open' ? [quiet, ...this.#sendCancels()] : []
  }

  /** Say that a picture is on the screen. */
  shown(id: string, decodeS: number, latencyS: number): Action[] {
    return this.#phase === 'open' ? [send({ type: 'shown', id, decode_s: decodeS, latency_s: latencyS })] : []
  }

  /** The socket is open. */
  opened(): Action[] {
    this.#phase = 'greeting'
    this.#connection = new Connection()
    return [{ do: 'send', text: this.#connection.hello(this.#about()) }, { do: 'timer', ms: GREETING_MS }]
  }

  /** A message arrived. */
  received(data: string | Uint8Array, nowMs: number): Action[] {
    const asking = this.#asking
    const sinceMs = nowMs - this.#lastMs
    this.#lastMs = nowMs
    try {
      const event = this.#connection.receive(data, asking?.message.id ?? null, asking?.parts ?? null)
      if (asking !== null) asking.bytes += data.length
      const actions = 'type' in event ? this.#control(event, nowMs) : this.#frame(event, sinceMs)
      return this.#phase === 'open' ? [{ do: 'timer', ms: this.#asking === null ? null : SILENT_MS }, ...actions] : actions
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      return [close, ...this.lost(error.message, nowMs)]
    }
  }

  /** The socket closed, or never opened. */
  lost(why: string, nowMs: number): Action[] {
    if (this.#phase === 'unauthorised') return [quiet]
    return this.#wait('waiting', why || 'no connection to the server', 0, nowMs)
  }

  /** The timer ran out. */
  due(nowMs: number): Action[] {
    if (this.#phase === 'waiting') return this.#connect()
    if (this.#phase !== 'again') return [close, ...this.lost('no answer in time', nowMs)]
    this.#phase = 'open'
    return this.#request()
  }

  #begin(message: Generate, beganMs: number, accepted: boolean): Action[] {
    this.#asking = { message, parts: { arrived: new Map(), total: null }, beganMs, accepted, reconnects: 0, bytes: 0 }
    if (this.#phase === 'open') return this.#request()
    return this.#phase === 'unauthorised' ? this.#connect() : this.hurry()
  }

  #connect(): Action[] {
    this.#phase = 'connecting'
    return [{ do: 'connect' }, { do: 'timer', ms: GREETING_MS }, tell({ kind: 'link', state: 'connecting' })]
  }

  /** Go on in a while: with a new connection, or with the same request on this one. */
  #wait(phase: 'waiting' | 'again', why: string, wantedMs: number, nowMs: number, refused = false): Action[] {
    const asking = this.#asking
    const ms = Math.round(Math.max(wantedMs, this.#waitMs * (0.5 + this.#random())))
    this.#waitMs = Math.min(2 * this.#waitMs, asking === null ? MOST_IDLE_WAIT_MS : MOST_WAIT_MS)
    this.#phase = phase
    const givesUp = asking !== null && nowMs + ms - asking.beganMs > PATIENCE_MS
    if (givesUp) this.#asking = null
    const failed: Action[] = givesUp ? [tell({ kind: 'failed', why: `no picture in ${PATIENCE_MS / 60_000} minutes; last: ${why}` })] : []
    if (givesUp && phase === 'again') this.#phase = 'open'
    const waits = tell(phase === 'again' ? { kind: 'again', why, ms } : { kind: 'link', state: 'waiting', why, ms, refused })
    return [{ do: 'timer', ms: this.#phase === 'open' ? null : ms }, waits, ...failed]
  }

  /** Send the request, or go on with it. */
  #request(): Action[] {
    const asking = this.#asking
    if (asking === null) return [quiet]
    if (asking.accepted) asking.reconnects += 1
    const have = [...asking.parts.arrived.keys()].sort((a, b) => a - b)
    const message = asking.accepted ? { type: 'resume', id: asking.message.id, have } : asking.message
    return [send(message), { do: 'timer', ms: SILENT_MS }]
  }

  #sendCancels(): Action[] {
    return this.#cancels.splice(0).map((id) => send({ type: 'cancel', id }))
  }

  #frame(frame: Frame, sinceMs: number): Action[] {
    const ack: Action = { do: 'send', text: ackOf(frame, sinceMs) }
    if (frame.request !== this.#asking?.message.id) return [ack]
    return [ack, tell({ kind: frame.kind === FEATURES ? 'part' : 'preview', frame })]
  }

  #control(message: FromServer, nowMs: number): Action[] {
    if (message.type === 'welcome') {
      this.#phase = 'open'
      this.#waitMs = LEAST_WAIT_MS
      return [tell({ kind: 'link', state: 'open' }), tell(message), ...this.#sendCancels(), ...this.#request()]
    }
    if (message.type === 'error' && message.id === null) return this.#refused(message, nowMs)
    const asking = this.#asking
    if (asking === null || message.id !== asking.message.id) return []
    if (message.type === 'error') return this.#failed(message, asking, nowMs)
    if (message.type === 'cancelled') return this.#end('the server cancelled the request')
    if (message.type === 'accepted') asking.accepted = true
    if (message.type !== 'done') return [tell(message)]
    if (asking.parts.arrived.size !== asking.parts.total) throw new ProtocolError('the server says that it is done, and parts are missing')
    this.#asking = null
    return [quiet, tell({ ...message, bytes: asking.bytes, reconnects: asking.reconnects })]
  }

  /** The connection is refused as a whole; the server closes it. */
  #refused({ code, message }: Failure, nowMs: number): Action[] {
    if (code !== 'unauthorised') return [close, ...this.#wait('waiting', message, 0, nowMs, true)]
    this.#phase = 'unauthorised'
    const why = this.#about().token === null ? 'this server asks for a token' : message
    return [close, quiet, tell({ kind: 'unauthorised', why })]
  }

  #failed({ code, message, retryable, retry_after_s }: Failure, asking: Asking, nowMs: number): Action[] {
    const lost = code === 'unknown_request'
    if (!lost && !retryable) return this.#end(message)
    if (code === 'failed') asking.message = { ...asking.message, id: this.#newId() }
    asking.accepted = false
    asking.reconnects = 0
    asking.parts.arrived.clear()
    asking.parts.total = null
    const anew = tell({ kind: 'anew', why: message })
    return lost ? [anew, ...this.#request()] : [anew, ...this.#wait('again', message, 1000 * (retry_after_s ?? 0), nowMs)]
  }

  #end(why: string): Action[] {
    this.#asking = null
    return [quiet, tell({ kind: 'failed', why })]
  }
}

const close: Action = { do: 'close' }
const quiet: Action = { do: 'timer', ms: null }

function send(message: object): Action {
  return { do: 'send', text: JSON.stringify(message) }
}

function tell(news: News): Action {
  return { do: 'tell', news }
}
