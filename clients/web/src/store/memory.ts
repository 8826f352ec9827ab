import { fields, list, optional, whole } from '../protocol/checks'
import { path, tiling } from '../protocol/read'
import type { Files } from '../receiver/messages'

const TOKEN = 'megen.token'
const DECODING = 'megen.decode_s'
const FILES = 'megen.files'
const MOST_TIMES = 5

/** What little is remembered between visits beside pictures; a browser that keeps nothing is no error. */
export class Memory {
  #token: string | null
  #files: Files | null
  #times: readonly number[]
  readonly #storage: Storage | null

  constructor(storage: Storage | null) {
    this.#storage = storage
    this.#token = storage?.getItem(TOKEN) ?? null
    this.#files = readFiles(storage?.getItem(FILES) ?? null)
    this.#times = readTimes(storage?.getItem(DECODING) ?? null)
  }

  get token(): string | null {
    return this.#token
  }

  set token(value: string | null) {
    this.#token = value
    if (value !== null) this.#keep(TOKEN, value)
  }

  /** The files of the server that was connected last. */
  get files(): Files | null {
    return this.#files
  }

  set files(value: Files | null) {
    const other = value !== null && this.#files !== null && value.fingerprint !== this.#files.fingerprint
    if (other) this.#remember([]) // times of another backbone's decoder
    this.#files = value
    if (value !== null) this.#keep(FILES, JSON.stringify(value))
  }

  /** Seconds that decoding takes here, the median of the last times; null: not measured. */
  get decodeS(): number | null {
    return [...this.#times].sort((a, b) => a - b)[this.#times.length >> 1] ?? null
  }

  /** Remember what decoding took. */
  decoded(seconds: number): void {
    this.#remember([...this.#times, seconds].slice(-MOST_TIMES))
  }

  #remember(times: readonly number[]): void {
    this.#times = times
    this.#keep(DECODING, JSON.stringify(times))
  }

  #keep(key: string, value: string): void {
    try {
      this.#storage?.setItem(key, value)
    } catch {
      // full, or forbidden: it is remembered until the page closes
    }
  }
}

/** The token in an address's fragment, `#token=...`. */
export function tokenIn(fragment: string): string | null {
  return new URLSearchParams(fragment.replace(/^#/, '')).get('token') || null
}

const files = fields<Files>({
  fingerprint: whole(0, 2 ** 32 - 1),
  shape: list(whole(1, 8192), 3),
  receiver: path,
  codec: path,
  denoiser: optional(path, null),
  tiles: optional(tiling, null),
})

function readFiles(text: string | null): Files | null {
  try {
    return text === null ? null : files(JSON.parse(text), FILES)
  } catch {
    return null
  }
}

function readTimes(text: string | null): readonly number[] {
  try {
    const value: unknown = JSON.parse(text ?? '[]')
    return Array.isArray(value) ? value.filter((time): time is number => typeof time === 'number' && time > 0).slice(-MOST_TIMES) : []
  } catch {
    return []
  }
}
