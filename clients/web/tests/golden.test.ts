import { describe, expect, test } from 'vitest'
import { CodecError, decode } from '../src/codec'
import { logisticCounts } from '../src/codec/levels'
import { CODECS, crcOf, fromHex, valuesOf, VECTORS } from './helpers'

describe('golden vectors', () => {
  test.each(VECTORS.decoded)('$name is decoded', ({ prior, payload, crc, first, last, lost, map, values, error }) => {
    const features = decode(fromHex(payload), CODECS[prior], VECTORS.backbone)
    if (map) {
      expect([...features.mergeMap]).toEqual(map)
      values?.forEach((value, i) => expect(features.rows[i]).toBeCloseTo(value, 5))
      if (error !== undefined) expect(features.degradation[1]).toBeCloseTo(error, 5)
      return
    }
    const whole = valuesOf(features)
    expect(crcOf(whole)).toBe(crc)
    expect([...whole.subarray(0, features.channels)]).toEqual(first)
    expect([...whole.subarray(-features.channels)]).toEqual(last)
    const predicted = [...features.mergeMap.keys()].filter((token) => features.degradation[4 * token + 3] > 0)
    expect(predicted).toEqual(lost)
  })

  test.each(VECTORS.refused)('$name is refused', ({ payload, why }) => {
    const attempt = () => decode(fromHex(payload), CODECS.small, VECTORS.backbone)
    expect(attempt).toThrow(CodecError)
    expect(attempt).toThrow(new CodecError(why.replace('bytes are not', 'bytes, which are not')))
  })

  test('the table of levels without a codec file', () => {
    const counts = logisticCounts()
    const halves = VECTORS.levels.map((_, row) => [...counts.subarray(49 * row + 24, 49 * (row + 1))])
    expect(halves).toEqual(VECTORS.levels)
    expect(crcOf(counts)).toBe(0xaf573396)
  })

  test('digests of the codec files', () => {
    expect(CODECS.small?.digest).toBe(VECTORS.digests.small)
    expect(CODECS.scenes?.digest).toBe(VECTORS.digests.scenes)
  })
})
