/** The longest side of a token grid. */
export const MAX_SIDE = 128
/** The most channels of a token. */
export const MAX_CHANNELS = 256
/** The largest root mean square of analog features, which are of unit variance. */
export const MAX_AMPLITUDE = 2 ** 20
/** Kinds of tokens in the pyramid. */
export const KINDS = 7
/** Token rows of a band. */
export const BAND_ROWS = 8
/** Units of a feature: values are whole numbers of 1/256. */
export const UNIT = 256
/** The largest magnitude of a value. */
export const MAX_VALUE = 32767
/** The largest magnitude of what a prediction is given, and of the mean that it gives. */
export const MAX_INPUT = 4096
/** The largest output of a hidden unit. */
export const MAX_HIDDEN = 32767
/** The largest scale class. */
export const MAX_CLASS = 60
/** The quantiser's largest depth, in quarter bits. */
export const MAX_DEPTH = 32

/** Quarter bits that the base of a layered payload is coarser than its refinement. */
export const LAYER = 8

/** `max(-most, min(most, value))`. */
export function clip(value: number, most: number): number {
  return value > most ? most : value < -most ? -most : value
}
