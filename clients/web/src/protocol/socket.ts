import type { Action, News, Session } from './session'

const PATH = '/v1/ws'

/** Runs a session: the one socket, the one timer, and the clock. */
export class Shell {
  readonly #session: Session
  readonly #tell: (news: News) => void
  #socket: WebSocket | null = null
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(session: Session, tell: (news: News) => void) {
    this.#session = session
    this.#tell = tell
    const hurry = () => this.run(this.#session.hurry())
    addEventListener('online', hurry)
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') hurry()
    })
  }

  /** Do what the session says. */
  run(actions: readonly Action[]): void {
    for (const action of actions) {
      if (action.do === 'send') this.#socket?.send(action.text)
      else if (action.do === 'tell') this.#tell(action.news)
      else if (action.do === 'connect') this.#connect()
      else if (action.do === 'close') this.#drop()
      else this.#wait(action.ms)
    }
  }

  #wait(ms: number | null): void {
    clearTimeout(this.#timer)
    this.#timer = ms === null ? undefined : setTimeout(() => this.run(this.#session.due(performance.now())), ms)
  }

  #connect(): void {
    this.#drop()
    const address = new URL(PATH, location.href)
    address.protocol = address.protocol.replace('http', 'ws')
    address.hash = ''
    const socket = new WebSocket(address)
    socket.binaryType = 'arraybuffer'
    const mine = () => this.#socket === socket
    socket.onopen = () => mine() && this.run(this.#session.opened())
    socket.onmessage = ({ data, timeStamp }: MessageEvent<string | ArrayBuffer>) => {
      if (mine()) this.run(this.#session.received(typeof data === 'string' ? data : new Uint8Array(data), timeStamp))
    }
    socket.onclose = ({ reason }) => {
      if (!mine()) return
      this.#socket = null
      this.run(this.#session.lost(reason, performance.now()))
    }
    this.#socket = socket
  }

  #drop(): void {
    const socket = this.#socket
    this.#socket = null
    socket?.close()
  }
}
