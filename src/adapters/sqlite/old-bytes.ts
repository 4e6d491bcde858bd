/** Searches the pages of a SQLite file for bytes of deleted rows (sqlite.org/fileformat2.html). */
import { read } from 'node:fs'
import { promisify } from 'node:util'

const readAt = promisify(read)

const CHUNK_BYTES = 1 << 20
/** The type byte of a page that holds rows of a table. */
const TABLE_LEAF = 0x0d

/**
 * Whether unused space inside a page holds old bytes. `secure_delete` zeroes deleted rows. But when SQLite moves rows between
 * neighbouring pages, because one is full or nearly empty, it leaves copies of them behind (`rebuildPage` in btree.c), which
 * outlive the rows.
 *
 * @param fd of the file. It is not opened and closed here: that would drop SQLite's locks (see kept-files.ts)
 */
export async function hasOldBytes(fd: number): Promise<boolean> {
  const chunk = Buffer.alloc(CHUNK_BYTES)
  let pageBytes = 0
  for (let position = 0; ; ) {
    const { bytesRead } = await readAt(fd, chunk, 0, CHUNK_BYTES, position)
    if (position === 0) pageBytes = pageBytesOf(chunk)
    // Not a SQLite file, or one that is encrypted as a whole: it may hold old bytes.
    if (pageBytes < 512) return true
    if (bytesRead < pageBytes) return false
    for (let page = 0; page + pageBytes <= bytesRead; page += pageBytes, position += pageBytes) {
      // The first page holds the file's header and the schema.
      if (position > 0 && isGapDirty(chunk.subarray(page, page + pageBytes))) return true
    }
  }
}

/** The page size at offset 16 of the file; 1 stands for 65,536. */
function pageBytesOf(start: Buffer): number {
  const value = start.readUInt16BE(16)
  return value === 1 ? 65_536 : value
}

/** Whether there are old bytes between a page's cell pointers, which grow from the front, and its cells, which grow from the back. */
function isGapDirty(page: Buffer): boolean {
  if (page[0] !== TABLE_LEAF) return false
  // 0 stands for 65,536.
  const end = page.readUInt16BE(5) || 65_536
  let start = POINTERS_OFFSET + 2 * page.readUInt16BE(3)
  // Pointers to deleted cells stay behind the others: skip what can be one. Bytes of a key hardly look like several of them.
  while (start + 2 <= end && isPointer(page.readUInt16BE(start), page.length)) start += 2
  return start < end && page.compare(ZEROS, 0, end - start, start, end) !== 0
}

const POINTERS_OFFSET = 8
const ZEROS = Buffer.alloc(65_536)

function isPointer(value: number, pageBytes: number): boolean {
  return value > POINTERS_OFFSET && value < pageBytes
}
