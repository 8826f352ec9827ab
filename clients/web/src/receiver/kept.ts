/** Files that never change under their path are kept for good, so that pictures open offline. */
export const CACHE = 'megen-decode-1'

/** The bytes of a file: kept ones, or from the server, which are then kept where the browser can (https or localhost). */
export async function keptFile(
  path: string,
  arrived: (bytes: number) => void = () => undefined,
  priority: RequestPriority = 'auto',
): Promise<Uint8Array<ArrayBuffer>> {
  const cache = 'caches' in globalThis ? await caches.open(CACHE) : null
  const found = await cache?.match(path, { ignoreVary: true })
  if (found) {
    const data = new Uint8Array(await found.arrayBuffer())
    arrived(data.length)
    return data
  }
  const answer = await fetch(path, { priority })
  if (!answer.ok || answer.body === null) throw new Error(`the server does not have ${path} any more`)
  const data = await readAll(answer.body, arrived)
  const type = answer.headers.get('Content-Type') ?? 'application/octet-stream'
  await cache?.put(path, new Response(data, { headers: { 'Content-Type': type } })).catch(() => undefined)
  return data
}

/** Whether a file is kept, so that it need not be fetched. */
export async function isKept(path: string): Promise<boolean> {
  return 'caches' in globalThis && (await (await caches.open(CACHE)).match(path, { ignoreVary: true })) !== undefined
}

/** Keep a file no longer. */
export async function drop(path: string): Promise<void> {
  if ('caches' in globalThis) await (await caches.open(CACHE)).delete(path, { ignoreVary: true })
}

/** Drop kept files of other paths than these. */
export async function dropOthers(wanted: readonly string[]): Promise<void> {
  if (!('caches' in globalThis)) return
  const cache = await caches.open(CACHE)
  for (const request of await cache.keys()) {
    if (!wanted.includes(new URL(request.url).pathname)) await cache.delete(request)
  }
}

async function readAll(body: ReadableStream<Uint8Array>, arrived: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array[] = []
  const reader = body.getReader()
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value)
    arrived(piece.value.length)
  }
  const out = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const piece of pieces) {
    out.set(piece, at)
    at += piece.length
  }
  return out
}
