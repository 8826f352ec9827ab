import { createServer, type Server, type Socket, connect } from 'node:net'
import type { AddressInfo } from 'node:net'

/** What a slow link passes on at a time. */
const PIECE_BYTES = 100

/** A TCP link to a server that can be cut, slowed down, and counts what comes down. */
export class Proxy {
  bytesDown = 0
  /** Bytes a second that come down, or null: as many as there are. */
  rate: number | null = null
  readonly #target: URL
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #open = true

  constructor(target: URL) {
    this.#target = target
    this.#server = createServer((near) => this.#link(near))
  }

  /** Listen, and give the address. */
  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`
  }

  /** Cut all connections, and refuse new ones until `mend`. */
  cut(): void {
    this.#open = false
    for (const socket of this.#sockets) socket.destroy()
  }

  /** Let connections through again. */
  mend(): void {
    this.#open = true
  }

  /** Stop. */
  stop(): void {
    this.cut()
    this.#server.close()
  }

  async #pass(data: Buffer, near: Socket): Promise<void> {
    for (let at = 0; at < data.length; ) {
      const piece = data.subarray(at, this.rate === null ? undefined : at + PIECE_BYTES)
      const ms = this.rate === null ? 0 : (1000 * piece.length) / this.rate
      if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms))
      near.write(piece)
      at += piece.length
    }
  }

  #link(near: Socket): void {
    if (!this.#open) return void near.destroy()
    const far = connect(Number(this.#target.port), this.#target.hostname)
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      this.#sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        this.#sockets.delete(socket)
        other.destroy()
      })
    }
    near.pipe(far)
    far.on('data', (data) => {
      this.bytesDown += data.length
      far.pause()
      void this.#pass(data, near).then(() => far.resume())
    })
  }
}
