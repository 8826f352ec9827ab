/** Bytes that are not a whole, unchanged payload, or not a codec file; the message says why in one line. */
export class CodecError extends Error {
  override readonly name = 'CodecError'
}

/** Refuse with a `CodecError` where a condition does not hold. */
export function ensure(condition: boolean, why: string): asserts condition {
  if (!condition) throw new CodecError(why)
}
