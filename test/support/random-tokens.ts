/** Random texts, bytes, and changes of tokens, from a seed: for the comparison of the two cores. */

/** Characters that a token may be changed by: of either alphabet, padding, white space, and some of which the low byte is a letter. */
const FOREIGN = ['A', 'Q', '_', '-', '+', '/', '=', ' ', '\n', '\0', ':', 'é', 'Ł', '\u0541', '\uFEFF', '🔑']
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const RANGES = [
  [0x20, 0x7e],
  [0x00, 0xff],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0xe000, 0xffff],
  [0x10000, 0x10ffff],
] as const

/** Mulberry32: the same numbers for the same seed. */
export class RandomTokens {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** A whole number from 0, below the limit. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)))
  }

  /** Mostly short; empty ones, and those around lengths where blocks and groups of characters end. */
  length(): number {
    return this.pick([0, 1, 2, 3, 15, 16, 17, 31, 32, 33, this.below(100), this.below(600)])
  }

  /** Of one range of characters or of several; now and then with a byte order mark or a lone surrogate. */
  text(): string {
    const isMixed = this.below(3) === 0
    const range = this.pick(RANGES)
    let text = this.below(20) === 0 ? '\uFEFF' : ''
    for (let count = this.length(); count > 0; count--) {
      const [from, to] = isMixed ? this.pick(RANGES) : range
      text += String.fromCodePoint(from + this.below(to - from + 1))
    }
    if (this.below(15) > 0) return text
    const at = this.below(text.length + 1)
    return text.slice(0, at) + String.fromCharCode(0xd800 + this.below(0x800)) + text.slice(at)
  }

  /** UTF-8 or not. */
  plaintextBytes(): Buffer {
    if (this.below(2) === 0) return this.bytes(this.length())
    const bytes = Buffer.from(this.text())
    if (bytes.length > 0 && this.below(2) === 0) bytes[this.below(bytes.length)] = this.below(256)
    return bytes
  }

  /** Changes a token in one way, or in two. */
  changed(token: string): string {
    const change = this.#change(token)
    return this.below(5) === 0 ? this.#change(change) : change
  }

  #change(token: string): string {
    const at = this.below(token.length + 1)
    switch (this.below(10)) {
      case 0:
        return token.slice(0, at)
      case 1:
        return token.slice(at)
      case 2:
        return token.slice(0, at) + this.pick(FOREIGN) + token.slice(at + 1)
      case 3:
        return token.slice(0, at) + this.pick(FOREIGN) + token.slice(at)
      case 4:
        return token.slice(0, at) + token.slice(at + 1)
      case 5:
        return token + '='.repeat(this.below(4))
      case 6:
        return token.replace(/=+$/, '')
      case 7:
        return token.replaceAll('-', '+').replaceAll('_', '/')
      case 8: {
        // The last character alone: its spare bits, or bits of the tag or the commitment.
        const end = token.replace(/=+$/, '').length
        return token.slice(0, end - 1) + ALPHABET[this.below(64)] + token.slice(end)
      }
      default: {
        const bytes = Buffer.from(token.slice(3), 'base64url')
        if (bytes.length > 0) {
          const bit = this.below(bytes.length * 8)
          bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7))
        }
        return token.slice(0, 3) + bytes.toString('base64url')
      }
    }
  }
}
