import glue from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url'
import wasm from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url'

/** Paths of the runtime's two files. */
export const RUNTIME = { glue, wasm } as const
