/** Control messages; names are those on the wire, fields that are left out there are null here. */
export const PROTOCOLS = [1, 2, 3] as const
/** Of binary frames. */
export const VERSION = 1
export const MOST_PROMPT_CHARS = 2000
export const MOST_TEXT_BYTES = 64 * 1024
/** Header, map and feature parts of a payload. */
export const MOST_PARTS = 64

/** What breaks the protocol; the connection is then of no more use. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
}

/** What a request asks for; what of the decision is left out the server chooses. */
export interface Generate {
  readonly type: 'generate'
  readonly id: string
  readonly prompt: string
  readonly seed: number
  readonly deadline_s?: number
  readonly energy_j?: number
  readonly steps?: number
}

/** What the server runs, and what a receiver must be made for. */
export interface Backbone {
  readonly name: string
  readonly fingerprint: number
  readonly latent_shape: readonly number[]
  readonly image_px: readonly number[]
  readonly steps: readonly number[]
  readonly merge_ratios: readonly number[]
  readonly max_words: number
}

/** The second graph of a receiver in two, by its path, and how it is run on parts of the first one's state. */
export interface Tiling {
  readonly tail: string
  /** Places of a tile. */
  readonly side: number
  /** That it needs around them. */
  readonly margin: number
  /** Pixels that a place becomes, in each direction. */
  readonly grows: number
}

/** The server's answer to a hello; without a receiver it decodes itself, and sends pictures. */
export interface Welcome {
  readonly type: 'welcome'
  readonly protocol: number
  readonly server: string
  readonly backbone: Backbone
  readonly receiver: string | null
  readonly codec: string | null
  /** A graph that cleans coarse features; protocol 1 has none. */
  readonly denoiser: string | null
  /** From protocol 3 on, where the receiver is in two graphs. */
  readonly tiles: Tiling | null
}

/** A decision. */
export interface Choice {
  readonly steps: number
  readonly merge_ratio: number
  readonly quantiser_bits: number
}

/** The request waits or runs. */
export interface Accepted {
  readonly type: 'accepted'
  readonly id: string
  readonly position: number
  readonly decision: Choice
  readonly why: string
  readonly fits: boolean | null
  readonly expected_s: number | null
  readonly prompt: string
  readonly added: readonly string[]
  readonly missing: readonly string[]
  readonly conflict: string | null
}

/** A denoising step is done. */
export interface Stepped {
  readonly type: 'step'
  readonly id: string
  readonly done: number
  readonly of: number
}

/** The features follow in so many parts; or with `picture` a file of that type, cut into so many. */
export interface Coded {
  readonly type: 'coded'
  readonly id: string
  readonly parts: number
  readonly bytes: number
  readonly picture: string | null
}

/** All parts were sent. */
export interface Done {
  readonly type: 'done'
  readonly id: string
  readonly report: Readonly<Record<string, unknown>>
}

/** Nothing more of this request is sent. */
export interface Cancelled {
  readonly type: 'cancelled'
  readonly id: string
}

export const ERROR_CODES = [
  'protocol',
  'bad_request',
  'unauthorised',
  'busy',
  'too_many',
  'unknown_request',
  'failed',
  'draining',
] as const

/** A request, or without an id the connection, failed. */
export interface Failure {
  readonly type: 'error'
  readonly code: (typeof ERROR_CODES)[number]
  readonly message: string
  readonly id: string | null
  readonly retryable: boolean
  readonly retry_after_s: number | null
}

export type FromServer = Welcome | Accepted | Stepped | Coded | Done | Cancelled | Failure
