/** Sentences for people: on a terminal they are wrapped at words, and left as they are in a file or a log. */

/** A head in front of a sentence that the next lines are indented by: `- `, `  1. `, `Backups:    `. */
const HEAD = /^( *(?:\d+\.|-) +|[A-Z][\w -]*: {2,})/

/** A command in backticks stays whole, so that it can be copied. */
const WORD = /`[^`]*`\S*|\S+/g

/** Prints on standard output. Indented lines are commands and code: they stay as they are. */
export function say(text: string): void {
  console.log(wrapped(text, process.stdout.columns))
}

/** Prints an entry of a list, or a sentence about what stands above: indented, and the lines that follow further. */
export function sayIndented(text: string): void {
  const [first = '', ...others] = text.split('\n')
  console.log([wrappedSentence(first, '  ', '    ', process.stdout.columns), ...others].join('\n'))
}

/** The same as {@link say} on standard error. */
export function sayError(text: string): void {
  process.stderr.write(`${wrapped(text, process.stderr.columns)}\n`)
}

/** @param columns in a line of the terminal; 0 or undefined: there is none, or it does not say */
export function wrapped(text: string, columns?: number): string {
  return text
    .split('\n')
    .map((line) => {
      const [head = ''] = HEAD.exec(line) ?? []
      if (head === '' && line.startsWith(' ')) return line
      return wrappedSentence(line.slice(head.length), head, ' '.repeat(head.length), columns)
    })
    .join('\n')
}

/** @param head begins the first line @param indentation begins all others */
function wrappedSentence(sentence: string, head: string, indentation: string, columns = 0): string {
  const whole = head + sentence
  if (columns === 0 || whole.length <= columns) return whole
  const lines: string[] = []
  let line = head
  for (const word of sentence.match(WORD) ?? []) {
    const isFirst = line === head && lines.length === 0
    if (!isFirst && line.length + 1 + word.length > columns) {
      lines.push(line)
      line = indentation + word
    } else line += isFirst ? word : ` ${word}`
  }
  return [...lines, line].join('\n')
}
