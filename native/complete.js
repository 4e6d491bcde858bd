// Whether the addon's file is whole. The loader of Linux maps a file that was cut off, by a full disk or an interrupted download, and the process
// ends by SIGBUS where it reads what is not there: no JavaScript can catch that.
const { readFileSync } = require('node:fs')

/** @throws ERR_ADDON_INCOMPLETE */
function assertComplete(path) {
  const file = readFileSync(path)
  if (file.length > 0 && (process.platform !== 'linux' || file.length >= lengthOfElf(file))) return
  throw Object.assign(
    new Error('The file of the addon of @drizzle-keystore/native is incomplete: install the package again'),
    { code: 'ERR_ADDON_INCOMPLETE' },
  )
}

/** How long a file is at least, by the headers of ELF (System V ABI, chapters 4 and 5). 0 for what is none: the loader itself refuses it. */
function lengthOfElf(file) {
  if (file.length < 64 || file.toString('latin1', 0, 4) !== '\x7fELF') return 0
  const is64 = file[4] === 2
  const isLittleEndian = file[5] === 1
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const half = (at) => view.getUint16(at, isLittleEndian)
  const offset = (at) =>
    is64 ? Number(view.getBigUint64(at, isLittleEndian)) : view.getUint32(at, isLittleEndian)
  // Where e_phoff, e_shoff and e_phentsize are, which three more sizes follow; and p_offset and p_filesz.
  const [segments, sections, sizes, ofSegment, bytesOfSegment] = is64
    ? [32, 40, 54, 8, 32]
    : [28, 32, 42, 4, 16]
  const [segmentBytes, segmentCount, sectionBytes, sectionCount] = [0, 2, 4, 6].map((at) => half(sizes + at))
  const endOfSegments = offset(segments) + segmentBytes * segmentCount
  const ends = [endOfSegments, offset(sections) + sectionBytes * sectionCount]
  if (endOfSegments <= file.length)
    for (let at = offset(segments); at < endOfSegments; at += segmentBytes)
      ends.push(offset(at + ofSegment) + offset(at + bytesOfSegment))
  return Math.max(...ends)
}

module.exports = { assertComplete }
