/** Looks into the pages of a SQLite file (sqlite.org/fileformat2.html). */
import { open } from 'node:fs/promises'

const CHUNK_BYTES = 1 << 20
/** The type of a page that holds rows. */
const TABLE_LEAF = 0x0d

/**
 * Whether the unused middle of some page holds old bytes. `secure_delete` zeroes what is deleted, but not what SQLite leaves
 * behind when it spreads the rows of a full page, or of nearly empty ones, over their neighbours (`rebuildPage` in btree.c):
 * copies of rows, which outlive the rows.
 */
export async function hasOldBytes(path: string): Promise<boolean> {
  const file = await open(path, 'r')
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES)
    let pageBytes = 0
    for (let at = 0; ; ) {
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES, at)
      if (at === 0) pageBytes = pageBytesOf(chunk)
      // No SQLite file, or one encrypted as a whole: nothing can be said of it.
      if (pageBytes < 512) return true
      if (bytesRead < pageBytes) return false
      for (let page = 0; page + pageBytes <= bytesRead; page += pageBytes, at += pageBytes) {
        // The first page has the file's header, and the schema for its rows.
        if (at > 0 && isGapDirty(chunk.subarray(page, page + pageBytes))) return true
      }
    }
  } finally {
    await file.close()
  }
}

/** At offset 16 of the file; 1 stands for 65,536. */
function pageBytesOf(start: Buffer): number {
  const value = start.readUInt16BE(16)
  return value === 1 ? 65_536 : value
}

/** The gap is between the pointers to the cells, which grow from the front, and the cells, which grow from the back. */
function isGapDirty(page: Buffer): boolean {
  if (page[0] !== TABLE_LEAF) return false
  // 0 stands for 65,536.
  const end = page.readUInt16BE(5) || 65_536
  let at = POINTERS + 2 * page.readUInt16BE(3)
  // Pointers to cells that are gone stay behind the others. Bytes of a key would hardly look like more than one of them.
  while (at + 2 <= end && isPointer(page.readUInt16BE(at), page.length)) at += 2
  return at < end && page.compare(ZEROS, 0, end - at, at, end) !== 0
}

const POINTERS = 8
const ZEROS = Buffer.alloc(65_536)

function isPointer(value: number, pageBytes: number): boolean {
  return value > POINTERS && value < pageBytes
}
