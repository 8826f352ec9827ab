import { unpack } from './container'
import { ensure } from './error'
import type { Grid } from './header'
import { addPart, analogFeatures, digitalFeatures, type Features, openPicture, partCount } from './picture'
import type { CodecFile } from './prior'

export { type Parts, type Symbols, unpack } from './container'
export { CodecError } from './error'
export type { Grid, Header } from './header'
export { addPart, analogFeatures, decodeArrived, digitalFeatures, type Features, openPicture, partCount, type Picture } from './picture'
export { type CodecFile, readCodecFile } from './prior'

/** The features of a whole payload, as it lies in a file or a message; see `openPicture` for what a receiver gives beside it. */
export function decode(payload: Uint8Array, codec: CodecFile | null, backbone: number, grid: Grid | null = null): Features {
  const parts = unpack(payload)
  const picture = openPicture(parts.header, parts.map, codec, backbone, grid)
  if (picture.digital === null) return analogFeatures(picture, parts.symbols)
  const expected = partCount(picture)
  ensure(parts.features.length === expected, `the payload has ${parts.features.length} feature parts, expected ${expected}`)
  parts.features.forEach((part, number) => {
    if (part.length > 0) addPart(picture, number, part)
  })
  return digitalFeatures(picture)
}
