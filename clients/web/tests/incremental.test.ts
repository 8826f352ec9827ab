import { describe, expect, test } from 'vitest'
import { addPart, CodecError, decode, decodeArrived, digitalFeatures, openPicture, partCount, unpack } from '../src/codec'
import { CODECS, fromHex, VECTORS } from './helpers'
import { pack } from './pack'
import { randomOf } from './random'

const NAMES = [
  'several bands',
  'several bands by stage',
  'several bands in layers',
  'own scales in layers',
  'own scales by stage',
  'bundled backbone',
  'the worked example',
]
const WHOLE = VECTORS.decoded.filter(({ name }) => NAMES.includes(name))

describe('parts that arrive one by one', () => {
  test.each(WHOLE)('$name: each step gives what a payload without the missing parts gives', ({ prior, payload }) => {
    const parts = unpack(fromHex(payload))
    const random = randomOf(7)
    for (let round = 0; round < 6; round++) {
      const picture = openPicture(parts.header, parts.map, CODECS[prior], VECTORS.backbone, null)
      expect(partCount(picture)).toBe(parts.features.length)
      const left = [...parts.features.keys()]
      const arrived: Uint8Array[] = parts.features.map(() => new Uint8Array(0))
      while (left.length > 0) {
        const [number] = left.splice(round === 0 ? 0 : random(left.length), 1)
        addPart(picture, number, parts.features[number])
        arrived[number] = parts.features[number]
        if (random(2) > 0) decodeArrived(picture)
        const whole = () => decode(pack({ ...parts, features: arrived }), CODECS[prior], VECTORS.backbone)
        if (arrived[0].length === 0) {
          expect(() => digitalFeatures(picture)).toThrow('the base of the features was lost')
          expect(whole).toThrow('the base of the features was lost')
        } else if (random(3) > 0) {
          expect(digitalFeatures(picture)).toEqual(whole())
        }
      }
      expect(digitalFeatures(picture)).toEqual(decode(fromHex(payload), CODECS[prior], VECTORS.backbone))
    }
  })

  test('a part of another number, or of another payload, is refused', () => {
    const [{ prior, payload }, other] = WHOLE.filter(({ name }) => name.startsWith('several'))
    const parts = unpack(fromHex(payload))
    const picture = openPicture(parts.header, parts.map, CODECS[prior], VECTORS.backbone, null)
    const foreign = unpack(fromHex(other.payload))
    expect(() => addPart(picture, 1, parts.features[2])).toThrow(
      new CodecError('feature part 1 fails its checksum: it was changed in transit'),
    )
    expect(() => addPart(picture, 1, foreign.features[1])).toThrow('feature part 1 fails its checksum')
    expect(() => addPart(picture, 1, new Uint8Array(0))).toThrow('feature part 1 fails its checksum')
    expect(() => addPart(picture, 4, parts.features[1])).toThrow(new CodecError('the payload has no feature part 4'))
    expect(() => openPicture(foreign.header, parts.map, CODECS[prior], VECTORS.backbone, null)).toThrow('the merge map fails its checksum')
  })
})
