import { ensure } from './checks'
import { FEATURES, type Frame, HEADER_BYTES, unpackFrame } from './frames'
import { type FromServer, MOST_PARTS, PROTOCOLS, type Welcome } from './messages'
import { readMessage } from './read'

const PROTECTED = 2

/** What this side says of itself. */
export interface About {
  readonly client: string
  readonly token: string | null
  /** What one picture's decoding takes here, where it was measured. */
  readonly decodeS: number | null
}

/** The parts of one payload that have arrived; they outlive a connection. */
export interface Parts {
  readonly arrived: Map<number, Uint8Array>
  /** Null until the server says it. */
  total: number | null
}

/** One connection, without its socket: what arrived to messages and frames. */
export class Connection {
  welcome: Welcome | null = null
  #sequence = 0

  /** The first message. */
  hello({ client, token, decodeS }: About): string {
    const known = { ...(token === null ? {} : { token }), ...(decodeS === null ? {} : { decode_s: decodeS }) }
    return JSON.stringify({ type: 'hello', protocols: PROTOCOLS, client, ...known, previews: ['webp'] })
  }

  /** What a message means; `parts` are those of the request `id` that this side waits for. Errors: ProtocolError. */
  receive(data: string | Uint8Array, id: string | null, parts: Parts | null): FromServer | Frame {
    if (typeof data === 'string') return this.#control(readMessage(data), id, parts)
    const frame = unpackFrame(data)
    ensure(this.welcome !== null, 'a binary frame before the welcome')
    ensure(frame.sequence === this.#sequence, `binary frame ${frame.sequence} came where ${this.#sequence} was due`)
    this.#sequence += 1
    if (frame.kind === FEATURES && frame.request === id && parts !== null) {
      const known = parts.total !== null && frame.part < parts.total
      ensure(known, `part ${frame.part} of a payload of ${parts.total ?? 'unknown'} parts`)
      parts.arrived.set(frame.part, frame.data)
    }
    return frame
  }

  #control(message: FromServer, id: string | null, parts: Parts | null): FromServer {
    if (message.type === 'welcome') {
      ensure(this.welcome === null, 'a second welcome')
      this.welcome = message
    } else {
      ensure(this.welcome !== null || message.type === 'error', "the server's first message must be a welcome")
    }
    if (message.type === 'coded' && message.id === id && parts !== null) {
      const least = message.picture === null ? PROTECTED : 1
      ensure(message.parts >= least && message.parts <= MOST_PARTS, `a payload of ${message.parts} parts`)
      parts.total = message.parts
    }
    return message
  }
}

/** The acknowledgement of a frame that came so many milliseconds after the message before it. */
export function ackOf(frame: Frame, ms: number): string {
  const bytes = HEADER_BYTES + frame.data.length
  return JSON.stringify({ type: 'ack', id: frame.request, sequence: frame.sequence, bytes, ms: Math.max(0, ms) })
}
