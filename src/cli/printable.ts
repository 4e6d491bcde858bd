/** Texts that may hold what somebody else has written, for a terminal or a log. Apart from output.ts, which loads a library for tables. */
import { printable } from '../errors.js'

/** Several ids may stand in a sentence, each of them cut already. */
const SENTENCE_CHARACTERS = 4000

/** The message of an error, or the reason of a finding: on one line. */
export function printableSentence(text: string): string {
  return printable(text, SENTENCE_CHARACTERS)
}

/** A text of several lines that may quote what was given on the command line. */
export function printableLines(text: string): string {
  return text.split('\n').map(printableSentence).join('\n')
}
