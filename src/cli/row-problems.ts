/** Rows with which something is wrong, as commands print them: many with the same reason are one line. */
import { describeUser } from '../errors.js'
import { withoutLibraryAdvice } from './existing-store.js'
import { counted, ownerName, printSome } from './output.js'
import { printableSentence } from './printable.js'

/** A finding or a failure. */
export interface RowProblem {
  /** Undefined: it is about no row. */
  readonly userId?: string | undefined
  readonly version?: number | undefined
  readonly exactVersion?: string | undefined
  readonly kekId?: string | null | undefined
  readonly reason: string
}

/** So many rows with one reason are named. */
const NAMED_ROWS = 3

/**
 * Prints one line for many rows that have the same reason, and else one for each problem.
 *
 * @param count problems in all, listed or not
 * @param reasonIn what is wrong, in words that are the same for rows that have the same reason
 * @param rowsLike how many rows are like those of a group, where more than the list is known of them
 */
export function printProblems<Problem extends RowProblem>(
  problems: readonly Problem[],
  count: number,
  reasonIn: (problem: Problem) => string = reasonOf,
  rowsLike: (group: readonly Problem[]) => number = () => 0,
): void {
  const groups = new Map<string, Problem[]>()
  for (const problem of problems) {
    const reason = reasonIn(problem)
    const group = groups.get(reason)
    if (group === undefined) groups.set(reason, [problem])
    else group.push(problem)
  }
  let unlisted = count - problems.length
  const lines: string[] = []
  for (const [reason, group] of groups) {
    if (group.length <= NAMED_ROWS || group[0]?.userId === undefined) {
      lines.push(
        ...group.map((problem) => (problem.userId === undefined ? reason : `${rowName(problem)}: ${reason}`)),
      )
      continue
    }
    // Problems that are not listed are most likely like those that are, if these have one reason.
    const rows = groups.size === 1 ? count : Math.max(group.length, rowsLike(group))
    unlisted = Math.max(0, unlisted - (rows - group.length))
    lines.push(
      `${counted(rows, 'row')}, such as ${group.slice(0, NAMED_ROWS).map(rowName).join('; ')}: ${reason}`,
    )
  }
  printSome(lines, lines.length + unlisted)
}

function rowName({ userId = '', version, exactVersion }: RowProblem): string {
  return `${ownerName(userId)}${versionText({ version, exactVersion })}`
}

function versionText({ version, exactVersion }: Pick<RowProblem, 'version' | 'exactVersion'>): string {
  return `, version ${exactVersion ?? version ?? '?'}`
}

/** What is wrong, without the row's name, which stands before it or is one of many. */
export function reasonOf(problem: RowProblem): string {
  const reason = withoutLibraryAdvice(problem.reason)
  if (problem.userId === undefined) return printableSentence(reason)
  const name = ` of ${describeUser(problem.userId)}${versionText(problem)}`
  return printableSentence(reason.replace(`${name}, is`, ' is').replace(name, () => ''))
}
