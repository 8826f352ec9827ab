import type { Answer, Files, Order } from './messages'

/** The worker that decodes, seen from the page. */
export class Receiver {
  readonly #worker: Worker

  constructor(hear: (answer: Answer) => void) {
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: 'receiver' })
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => hear(data)
    this.#worker.onerror = () => hear({ kind: 'broken', why: 'this browser cannot run it' })
  }

  /** Load what decodes, and measure it where that is wanted. */
  prepare(files: Files, measure: boolean): void {
    this.#tell({ kind: 'prepare', files, measure })
  }

  /** Parts of a payload will come; an earlier one is dropped. */
  open(id: string, files: Files, total: number): void {
    this.#tell({ kind: 'open', id, files, total })
  }

  /** A part came. */
  part(id: string, number: number, data: Uint8Array): void {
    this.#tell({ kind: 'part', id, number, data })
  }

  /** A payload is not wanted any more. */
  drop(id: string): void {
    this.#tell({ kind: 'drop', id })
  }

  /** Decode a whole payload. */
  payload(id: string, files: Files, data: Uint8Array): void {
    this.#tell({ kind: 'payload', id, files, data })
  }

  #tell(order: Order): void {
    this.#worker.postMessage(order)
  }
}
