/** Secrets that the tests planted, and the search for them. */
import { expect } from 'vitest'

export class Secrets {
  readonly #planted = new Map<string, string>()

  /** Remembers a secret under a name. @returns it */
  plant(name: string, secret: string): string {
    this.#planted.set(name, secret)
    return secret
  }

  /** Expects that no secret is in the text: as it is, in base64 or in hexadecimal, whole or its middle alone. */
  expectNoneIn(where: string, text: string): void {
    const found = Array.from(this.#planted).filter(([, secret]) =>
      formsOf(secret).some((form) => text.includes(form)),
    )
    expect([where, found.map(([name]) => name)]).toEqual([where, []])
  }
}

function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret)
  // Base64 of a part is a part of the base64 only where it begins at a multiple of three bytes.
  const middle = bytes.subarray(6, 24)
  return [middle.toString(), middle.toString('base64'), middle.toString('base64url'), middle.toString('hex')]
}
