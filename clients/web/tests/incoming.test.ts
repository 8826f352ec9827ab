import { describe, expect, test } from 'vitest'
import { CodecError, decode, unpack } from '../src/codec'
import { Incoming } from '../src/receiver/incoming'
import { packPayload } from '../src/store/pack'
import { bytesOf, CODECS, fromHex, VECTORS } from './helpers'

const BACKBONE = VECTORS.bundled
const FILES = { fingerprint: BACKBONE, shape: [32, 32, 32], receiver: '/r', codec: '/c' }
const PACKED = bytesOf('tests/golden/scenes.payload')
const { header, map, features } = unpack(PACKED)
const PARTS = [header, map, ...features]

function codec() {
  if (CODECS.scenes === null) throw new Error('no codec')
  return CODECS.scenes
}

describe('a payload that arrives in parts', () => {
  test('can be decoded from the base on, and is whole in the end', () => {
    const incoming = new Incoming(codec(), FILES, PARTS.length)
    const fresh = PARTS.map((part, number) => {
      incoming.take(number, part)
      const { fresh } = incoming
      if (fresh) incoming.features()
      return fresh
    })
    expect(fresh).toEqual(PARTS.map((_, number) => number >= 2))
    expect([incoming.whole, incoming.fresh, incoming.parts]).toEqual([true, false, features.length])
    incoming.take(PARTS.length - 1, PARTS[PARTS.length - 1])
    expect(incoming.fresh).toBe(false)
    expect(incoming.features()).toEqual(decode(PACKED, codec(), BACKBONE))
  })

  test('is decoded ahead, and the features are the same', () => {
    const incoming = new Incoming(codec(), FILES, PARTS.length)
    PARTS.forEach((part, number) => {
      incoming.take(number, part)
      incoming.ahead()
      expect(incoming.fresh).toBe(number >= 2)
    })
    expect(incoming.features()).toEqual(decode(PACKED, codec(), BACKBONE))
    expect(incoming.fresh).toBe(false)
  })

  test('of another backbone, or of another number of parts, is refused', () => {
    const all = (incoming: Incoming) => {
      PARTS.forEach((part, number) => incoming.take(number, part))
      return () => incoming.features()
    }
    expect(all(new Incoming(codec(), { ...FILES, fingerprint: 1 }, PARTS.length))).toThrow('this receiver decodes 00000001')
    expect(all(new Incoming(codec(), FILES, PARTS.length + 1))).toThrow(CodecError)
  })

  test('is kept as it lies in a file', () => {
    expect(packPayload(PARTS)).toEqual(PACKED)
    for (const { payload } of VECTORS.decoded) {
      const parts = unpack(fromHex(payload))
      if (parts.symbols === null) expect(packPayload([parts.header, parts.map, ...parts.features])).toEqual(fromHex(payload))
    }
  })
})
