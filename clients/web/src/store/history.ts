import type { Entry } from './entry'

const DATABASE = 'megen'
const PICTURES = 'pictures'
const VERSION = 1

/** Pictures of this browser, newest first. */
export class History {
  readonly #opened: Promise<IDBDatabase>

  constructor(factory: IDBFactory = indexedDB) {
    const opening = factory.open(DATABASE, VERSION)
    opening.onupgradeneeded = () => opening.result.createObjectStore(PICTURES, { keyPath: 'id' })
    this.#opened = answerOf(opening)
    this.#opened.catch(() => undefined)
  }

  /** All of them. */
  async all(): Promise<readonly Entry[]> {
    const entries = await answerOf<Entry[]>((await this.#store('readonly')).getAll())
    return entries.sort((a, b) => b.madeMs - a.madeMs)
  }

  /** Keep one. */
  async keep(entry: Entry): Promise<void> {
    await answerOf((await this.#store('readwrite')).put(entry))
  }

  /** Forget one. */
  async remove(id: string): Promise<void> {
    await answerOf((await this.#store('readwrite')).delete(id))
  }

  /** Forget all. */
  async clear(): Promise<void> {
    await answerOf((await this.#store('readwrite')).clear())
  }

  async #store(mode: IDBTransactionMode): Promise<IDBObjectStore> {
    return (await this.#opened).transaction(PICTURES, mode).objectStore(PICTURES)
  }
}

function answerOf<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error ?? new Error('the browser keeps nothing'))
  })
}
