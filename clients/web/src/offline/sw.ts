/** Files of the page and a version of them all, written here by the build. */
declare const SHELL_FILES: readonly string[]
declare const SHELL_VERSION: string

const worker = self as unknown as ServiceWorkerGlobalScope
const SHELL = `megen-shell-${SHELL_VERSION}`
const PAGE = '/'
/** So long the server is waited for before the page that is kept is shown. */
const PATIENCE_MS = 3000

worker.addEventListener('install', (event) => {
  const keep = async () => {
    const shell = await caches.open(SHELL)
    await shell.addAll([PAGE, ...SHELL_FILES])
    await worker.skipWaiting()
  }
  event.waitUntil(keep())
})

worker.addEventListener('activate', (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith('megen-shell-') && name !== SHELL)
    await Promise.all(old.map((name) => caches.delete(name)))
    await worker.clients.claim()
  }
  event.waitUntil(tidy())
})

worker.addEventListener('fetch', (event) => {
  const { request } = event
  const { origin, pathname } = new URL(request.url)
  if (request.method !== 'GET' || origin !== worker.location.origin || pathname.startsWith('/v1/')) return
  event.respondWith(request.mode === 'navigate' ? page(request) : kept(request))
})

/** The page as the server has it now, or as it is kept. */
async function page(request: Request): Promise<Response> {
  try {
    return await fetch(request, { signal: AbortSignal.timeout(PATIENCE_MS) })
  } catch (error) {
    const found = await caches.match(PAGE, { ignoreVary: true })
    if (found) return found
    throw error
  }
}

async function kept(request: Request): Promise<Response> {
  return (await caches.match(request, { ignoreVary: true })) ?? fetch(request)
}
