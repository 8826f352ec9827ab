import { crc32, joined, viewOf } from '../src/codec/bytes'

/** The id of a request. */
export const ID = '000102030405060708090a0b0c0d0e0f'

/** A welcome of the bundled backbone's server. */
export const WELCOME = {
  type: 'welcome',
  protocol: 1,
  server: 'megen 0.1.0',
  backbone: {
    name: 'scenes',
    fingerprint: 3866794751,
    latent_shape: [32, 32, 32],
    image_px: [1024, 1024],
    steps: [1, 2, 4, 8, 12],
    merge_ratios: [0, 0.5],
    max_words: 64,
  },
  receiver: '/decode/e67a72ff/receiver.onnx',
  codec: '/decode/e67a72ff/codec.safetensors',
  denoiser: '/decode/e67a72ff/0a1b2c3d/denoiser.onnx',
  tiles: { tail: '/decode/e67a72ff/receiver-tail.onnx', side: 64, margin: 3, grows: 2 },
}

/** What is said first of a request. */
export const ACCEPTED = {
  type: 'accepted',
  id: ID,
  position: 0,
  decision: { steps: 4, merge_ratio: 0, quantiser_bits: 5 },
  why: 'by the plan',
  prompt: 'a castle, hills',
  added: ['hills'],
  missing: [],
  conflict: null,
}

/** A binary frame as the server sends it. */
export function frame(sequence: number, part: number, data: Uint8Array, kind = 2, id = ID): Uint8Array {
  const header = new Uint8Array(36)
  const view = viewOf(header)
  view.setUint32(0, 0x4647454d, true)
  header[4] = 1
  header[5] = kind
  view.setUint16(6, part, true)
  header.set(id.match(/../g)?.map((byte) => parseInt(byte, 16)) ?? [], 8)
  view.setUint32(24, sequence, true)
  view.setUint32(28, data.length, true)
  view.setUint32(32, crc32(data, crc32(header.subarray(0, 32))), true)
  return joined(header, data)
}
