import type { Decoded } from '../receiver/messages'
import type { Entry } from '../store/entry'
import { byId, imageFile } from './dom'

const THUMBNAIL_PX = 192
const THUMBNAIL_QUALITY = 0.7
/** Of the WebP that a picture's size is compared with. */
export const WEBP_QUALITY = 0.8

/** The large picture: an idle scene, previews, and what was decoded. */
export class Picture {
  readonly #frame = byId('frame')
  readonly #canvas = byId<HTMLCanvasElement>('picture')
  #shown = 0

  /** The idle scene, or what was there before, made quiet. */
  begin(): void {
    this.#shown += 1
    this.#state('waiting')
  }

  /** Only the idle scene. */
  clear(): void {
    this.#shown += 1
    this.#canvas.hidden = true
    this.#state('idle')
  }

  /** A rough picture, which gives way to whatever came after it was handed over. */
  async preview(image: Blob, alt: string): Promise<void> {
    const number = (this.#shown += 1)
    const bitmap = await createImageBitmap(image).catch(() => null)
    if (bitmap === null) return
    if (number === this.#shown) {
      const { width, height } = this.#canvas
      const context = this.#sized(width, height, alt)
      context.imageSmoothingQuality = 'high'
      context.drawImage(bitmap, 0, 0, width, height)
      this.#state('rough')
    }
    bitmap.close()
  }

  /** What was decoded. */
  show({ rgba, width, height, parts, of, final }: Decoded, alt: string): void {
    this.#shown += 1
    this.#frame.style.setProperty('--missing', String(final ? 0 : 1 - parts / of))
    this.#sized(width, height, alt).putImageData(new ImageData(rgba, width, height), 0, 0)
    this.#state(final ? 'whole' : 'part')
  }

  /** The picture as an image file. */
  file(type: string, quality?: number): Promise<Blob | null> {
    return imageFile(this.#canvas, type, quality)
  }

  /** What is kept of the picture beside its payload: a small one, and how large files of it are. */
  async made(): Promise<Pick<Entry, 'png' | 'webp' | 'thumbnail'>> {
    const files = [this.file('image/png'), this.file('image/webp', WEBP_QUALITY)]
    const [thumbnail, png, webp] = await Promise.all([this.#thumbnail(), ...files])
    return { thumbnail, png: png?.size ?? 0, webp: webp?.size ?? null }
  }

  async #thumbnail(): Promise<Blob> {
    const small = document.createElement('canvas')
    small.width = small.height = THUMBNAIL_PX
    const context = small.getContext('2d')
    if (context === null) throw new Error('this browser draws nothing')
    context.imageSmoothingQuality = 'high'
    context.drawImage(this.#canvas, 0, 0, THUMBNAIL_PX, THUMBNAIL_PX)
    const file = (await imageFile(small, 'image/webp', THUMBNAIL_QUALITY)) ?? (await imageFile(small, 'image/png'))
    if (file === null) throw new Error('this browser makes no image files')
    return file
  }

  #sized(width: number, height: number, alt: string): CanvasRenderingContext2D {
    const canvas = this.#canvas
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
    canvas.hidden = false
    canvas.setAttribute('aria-label', alt)
    const context = canvas.getContext('2d')
    if (context === null) throw new Error('this browser draws nothing')
    return context
  }

  #state(state: 'idle' | 'waiting' | 'rough' | 'part' | 'whole'): void {
    this.#frame.dataset['state'] = state
  }
}
