import { dictionary, ensure, fields, finite, flag, like, list, oneOf, optional, text, whole } from './checks'
import {
  type Accepted,
  type Backbone,
  type Cancelled,
  type Choice,
  type Coded,
  type Done,
  ERROR_CODES,
  type Failure,
  type FromServer,
  MOST_TEXT_BYTES,
  type Stepped,
  PROTOCOLS,
  type Tiling,
  type Welcome,
} from './messages'

export const id = like(/^[0-9a-f]{32}$/, 'the id of a request')
export const path = like(/^\/(?!\/)[\w./-]+$/, 'a path of this server')
const count = whole(0, 2 ** 53 - 1)
const size = whole(1, 8192)

/** Checks how a receiver in two graphs is run. */
export const tiling = fields<Tiling>({ tail: path, side: size, margin: whole(0, 8192), grows: whole(1, 64) })

const CHECKS = {
  welcome: fields<Welcome>({
    type: oneOf(['welcome']),
    protocol: whole(PROTOCOLS[0], PROTOCOLS[2]),
    server: text,
    backbone: fields<Backbone>({
      name: text,
      fingerprint: whole(0, 2 ** 32 - 1),
      latent_shape: list(size, 3),
      image_px: list(size, 2),
      steps: list(count),
      merge_ratios: list(finite),
      max_words: count,
    }),
    receiver: optional(path, null),
    codec: optional(path, null),
    denoiser: optional(path, null),
    tiles: optional(tiling, null),
  }),
  accepted: fields<Accepted>({
    type: oneOf(['accepted']),
    id,
    position: count,
    decision: fields<Choice>({ steps: count, merge_ratio: finite, quantiser_bits: finite }),
    why: text,
    fits: optional(flag, null),
    expected_s: optional(finite, null),
    prompt: text,
    added: optional(list(text), []),
    missing: optional(list(text), []),
    conflict: optional(text, null),
  }),
  step: fields<Stepped>({ type: oneOf(['step']), id, done: count, of: count }),
  coded: fields<Coded>({ type: oneOf(['coded']), id, parts: count, bytes: count, picture: optional(text, null) }),
  done: fields<Done>({ type: oneOf(['done']), id, report: dictionary }),
  cancelled: fields<Cancelled>({ type: oneOf(['cancelled']), id }),
  error: fields<Failure>({
    type: oneOf(['error']),
    code: oneOf(ERROR_CODES),
    message: text,
    id: optional(id, null),
    retryable: optional(flag, false),
    retry_after_s: optional(finite, null),
  }),
}

/** A control message of the edge server. Errors: ProtocolError saying what is wrong with it. */
export function readMessage(data: string): FromServer {
  ensure(new TextEncoder().encode(data).length <= MOST_TEXT_BYTES, `a control message has at most ${MOST_TEXT_BYTES} bytes`)
  let value: unknown
  try {
    value = JSON.parse(data)
  } catch {
    value = null
  }
  const { type } = dictionary(value, 'message')
  ensure(typeof type === 'string' && Object.hasOwn(CHECKS, type), `a message of type ${String(type)}, which this side does not know`)
  return CHECKS[type as keyof typeof CHECKS](value, type)
}
