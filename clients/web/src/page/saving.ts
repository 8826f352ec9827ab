import type { Entry } from '../store/entry'
import { element } from './dom'
import type { Picture } from './picture'

/** The name of a picture's file, by its prompt. */
export function fileName(prompt: string, seed: number): string {
  const words = prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []
  return `${[...words.slice(0, 8), seed].join('-').slice(0, 80)}.png`
}

/** The picture that is shown, as a file. */
export async function pngOf(picture: Picture, { prompt, seed }: Entry): Promise<File> {
  const blob = await picture.file('image/png')
  if (blob === null) throw new Error('this browser makes no image files')
  return new File([blob], fileName(prompt, seed), { type: blob.type })
}

/** Hand a file to the browser's downloads. */
export function save(file: File): void {
  const address = URL.createObjectURL(file)
  element('a', { href: address, download: file.name }).click()
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}

/** Whether this browser hands image files to other apps. */
export function canShare(): boolean {
  const probe = new File([], 'picture.png', { type: 'image/png' })
  return typeof navigator.canShare === 'function' && navigator.canShare({ files: [probe] })
}

/** Hand a file to another app; nothing where the person thinks better of it. */
export async function share(file: File, text: string): Promise<void> {
  await navigator.share({ files: [file], text }).catch((error: unknown) => {
    if (!(error instanceof DOMException && error.name === 'AbortError')) throw error
  })
}
