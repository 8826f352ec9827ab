import type { Answer } from '../receiver/messages'

/** The pixels of an image file that the server decoded, as the receiver would say them. */
export async function pixelsOf(id: string, file: Uint8Array<ArrayBuffer>): Promise<Answer> {
  const beganMs = performance.now()
  const bitmap = await createImageBitmap(new Blob([file])).catch(() => null)
  const { width, height } = bitmap ?? { width: 1, height: 1 }
  const canvas = document.createElement('canvas')
  canvas.width = width
  canvas.height = height
  const context = canvas.getContext('2d')
  if (bitmap === null || context === null) return { kind: 'refused', id, why: "this browser cannot read the server's file" }
  context.drawImage(bitmap, 0, 0)
  bitmap.close()
  const rgba = new Uint8ClampedArray(context.getImageData(0, 0, width, height).data)
  const seconds = (performance.now() - beganMs) / 1000
  return { kind: 'picture', id, rgba, width, height, parts: 1, of: 1, final: true, cleaned: false, seconds }
}
