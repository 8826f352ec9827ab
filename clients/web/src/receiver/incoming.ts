import { addPart, type CodecFile, CodecError, decodeArrived, digitalFeatures, type Features, openPicture, partCount, type Picture } from '../codec'
import type { Files } from './messages'

/** Parts before the features: the payload's header and its map. */
const PROTECTED = 2

/** One payload's parts as they arrive, and the features that they give so far. */
export class Incoming {
  readonly total: number
  readonly #codec: CodecFile
  readonly #files: Files
  readonly #arrived = new Map<number, Uint8Array>()
  readonly #waiting = new Set<number>()
  #picture: Picture | null = null
  /** How many parts the last features had. */
  #shown = 0

  constructor(codec: CodecFile, files: Files, total: number) {
    this.total = total
    this.#codec = codec
    this.#files = files
  }

  /** Take in part `number` of the payload: 0 its header, 1 its map, 2 and on its feature parts; an empty one was lost. */
  take(number: number, data: Uint8Array): void {
    if (!this.#arrived.has(number)) this.#waiting.add(number)
    this.#arrived.set(number, data)
  }

  /** Whether all parts are there. */
  get whole(): boolean {
    return this.#arrived.size === this.total
  }

  /** How many parts are there. */
  get count(): number {
    return this.#arrived.size
  }

  /** How many feature parts are there. */
  get parts(): number {
    return [...this.#arrived.keys()].filter((number) => number >= PROTECTED).length
  }

  /** Whether there is something new to show: header, map and base are there, and a part that no features have had. */
  get fresh(): boolean {
    return this.#arrived.size > this.#shown && [0, 1, PROTECTED].every((number) => number >= this.total || this.#arrived.has(number))
  }

  /** The features by all that arrived. Errors: CodecError. */
  features(): Features {
    const picture = this.#taken()
    this.#shown = this.#arrived.size
    return digitalFeatures(picture)
  }

  /** Decode what of the features can be while others arrive, so that little is left to do when the last one has. Errors: CodecError. */
  ahead(): void {
    if (this.#arrived.has(0) && this.#arrived.has(1)) decodeArrived(this.#taken())
  }

  /** The picture with all that arrived. */
  #taken(): Picture {
    this.#picture ??= this.#open()
    for (const number of this.#waiting) {
      const data = this.#arrived.get(number)
      if (number >= PROTECTED && data !== undefined && data.length > 0) addPart(this.#picture, number - PROTECTED, data)
    }
    this.#waiting.clear()
    return this.#picture
  }

  #open(): Picture {
    const [, height, width] = this.#files.shape
    const [header, map] = [this.#arrived.get(0), this.#arrived.get(1)]
    if (header === undefined || map === undefined) throw new CodecError('header and map have not arrived')
    const picture = openPicture(header, map, this.#codec, this.#files.fingerprint, [height, width])
    const expected = partCount(picture)
    const given = this.total - PROTECTED
    if (given !== expected) throw new CodecError(`the payload has ${given} feature parts, expected ${expected}`)
    return picture
  }
}
