import type { Entry } from './entry'

const DATABASE = 'megen'
const PICTURES = 'pictures'
const VERSION = 1

/** An entry as it lies in the database: WebKit keeps no blobs in private windows. An entry of an earlier page has one all the same. */
type Kept = Omit<Entry, 'thumbnail'> & { readonly thumbnail: Blob | { readonly type: string; readonly bytes: ArrayBuffer } }

/** Pictures of this browser, newest first. */
export class History {
  readonly #opened: Promise<IDBDatabase>
  readonly #tabs = new BroadcastChannel(DATABASE)

  constructor(factory: IDBFactory = indexedDB) {
    const opening = factory.open(DATABASE, VERSION)
    opening.onupgradeneeded = () => opening.result.createObjectStore(PICTURES, { keyPath: 'id' })
    this.#opened = answerOf(opening)
    this.#opened.catch(() => undefined)
  }

  /** Called where another tab has changed what is kept. */
  set changed(changed: () => void) {
    this.#tabs.onmessage = changed
  }

  /** All of them. */
  async all(): Promise<readonly Entry[]> {
    const store = (await this.#opened).transaction(PICTURES).objectStore(PICTURES)
    const entries = await answerOf<Kept[]>(store.getAll())
    return entries.map(({ thumbnail, ...entry }) => ({ ...entry, thumbnail: blobOf(thumbnail) })).sort((a, b) => b.madeMs - a.madeMs)
  }

  /** Keep one. */
  async keep(entry: Entry): Promise<void> {
    const { type } = entry.thumbnail
    const kept: Kept = { ...entry, thumbnail: { type, bytes: await entry.thumbnail.arrayBuffer() } }
    await this.#change((store) => store.put(kept))
  }

  /** Forget one. */
  async remove(id: string): Promise<void> {
    await this.#change((store) => store.delete(id))
  }

  /** Forget all. */
  async clear(): Promise<void> {
    await this.#change((store) => store.clear())
  }

  /** It is done at the end of its transaction: a full disk is found out there. */
  async #change(change: (store: IDBObjectStore) => unknown): Promise<void> {
    const transaction = (await this.#opened).transaction(PICTURES, 'readwrite')
    change(transaction.objectStore(PICTURES))
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve()
      transaction.onabort = () => reject(transaction.error ?? new Error('the browser keeps nothing'))
    })
    this.#tabs.postMessage(null)
  }
}

function blobOf(thumbnail: Kept['thumbnail']): Blob {
  return thumbnail instanceof Blob ? thumbnail : new Blob([thumbnail.bytes], { type: thumbnail.type })
}

function answerOf<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error ?? new Error('the browser keeps nothing'))
  })
}
