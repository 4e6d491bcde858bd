/** Counts values that look like ciphertext of other libraries, for the report's findings. */
import { printable } from '../errors.js'
import { pathName } from '../sources/field-cells.js'
import type { SourceFinding } from '../sources/finding.js'
import type { CiphertextForm } from './legacy/ciphertext-form.js'

export class CiphertextCount {
  readonly #counts = new Map<string, Map<CiphertextForm, number>>()

  add(column: string, form: CiphertextForm): void {
    const name = pathName(column)
    const ofColumn = this.#counts.get(name) ?? new Map<CiphertextForm, number>()
    this.#counts.set(name, ofColumn.set(form, (ofColumn.get(form) ?? 0) + 1))
  }

  /** @param asPlaintext whether they are encrypted as if they were plaintext */
  findings(asPlaintext: boolean): SourceFinding[] {
    const fate = asPlaintext
      ? 'They are encrypted as they are, since ciphertextAsPlaintext says that they are plaintext'
      : 'They are left as they are. If they are plaintext all the same, say ciphertextAsPlaintext: true (--ciphertext-as-plaintext)'
    return [...this.#counts].flatMap(([column, forms]) =>
      Array.from(forms, ([{ what, reader }, count]): SourceFinding => {
        const values = count === 1 ? '1 value looks' : `${count.toLocaleString('en')} values look`
        const reason = `column ${printable(column)}: ${values} like ciphertext of ${what}, for which a sweep from code has the reader ${reader} (legacy). ${fate}`
        return { severity: 'warning', kind: 'ciphertext', column, reason }
      }),
    )
  }
}
