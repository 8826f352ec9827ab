import { describe, expect, test } from 'vitest'
import { ackOf } from '../src/protocol/connection'
import { HEADER_BYTES, unpackFrame } from '../src/protocol/frames'
import { ProtocolError } from '../src/protocol/messages'
import { bytesOf, fromHex } from './helpers'

interface Vectors {
  readonly frames: readonly { name: string; kind: number; request: string; sequence: number; part: number; data: string; hex: string }[]
  readonly refused: readonly { name: string; hex: string }[]
}

const VECTORS = JSON.parse(new TextDecoder().decode(bytesOf('tests/golden/frames.json'))) as Vectors

describe('binary frames', () => {
  test.each(VECTORS.frames)('$name is read', ({ kind, request, sequence, part, data, hex }) => {
    expect(unpackFrame(fromHex(hex))).toEqual({ kind, request, sequence, part, data: fromHex(data) })
  })

  test.each(VECTORS.refused)('$name is refused', ({ hex }) => {
    expect(() => unpackFrame(fromHex(hex))).toThrow(ProtocolError)
  })

  test.each(VECTORS.frames)('$name with any bit changed is refused', ({ hex }) => {
    const message = fromHex(hex)
    for (let bit = 0; bit < 8 * message.length; bit++) {
      const changed = message.slice()
      changed[bit >> 3] ^= 1 << (bit & 7)
      expect(() => unpackFrame(changed)).toThrow(ProtocolError)
    }
  })

  test.each(VECTORS.frames)('$name is acknowledged with all its bytes', ({ request, sequence, data, hex }) => {
    const ack: unknown = JSON.parse(ackOf(unpackFrame(fromHex(hex)), 12.5))
    expect(ack).toEqual({ type: 'ack', id: request, sequence, bytes: HEADER_BYTES + data.length / 2, ms: 12.5 })
  })
})
