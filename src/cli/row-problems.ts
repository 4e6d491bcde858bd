/** Rows with which something is wrong, as commands print them: many with the same reason are one line. */
import { describeUser } from '../errors.js'
import type { RowFailure } from '../lifecycle/long-work.js'
import { withoutLibraryAdvice } from './existing-store.js'
import { counted, kekName, ownerName, printSome } from './output.js'
import { printableSentence } from './printable.js'
import { sayIndented } from './say.js'

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

/** A row in format v2 may have been planted, so that somebody accepts it. */
const ONLY_IF_THE_REFERENCES =
  'Use it only if the store was taken over from an earlier implementation: if not, somebody has put them there.'

/** Prints the failures of a command's long work, and what to do about them. */
export function printFailures(failed: readonly RowFailure[], count: number): void {
  if (count === 0) return
  printProblems(failed, count, (failure) => {
    const { code, kekId } = failure
    const reason = reasonOf(failure)
    // A reason that is the same for several master keys is one of each.
    const under = kekId === null || reason.includes(kekId) ? '' : `, under ${kekName(kekId)}`
    return `${reason}${under} [${code}]`
  })
  const codes = new Set(failed.map(({ code }) => code))
  if (codes.has('ERR_FORMAT_NOT_ACCEPTED'))
    sayIndented(`--accept-v2 upgrades rows in format v2. ${ONLY_IF_THE_REFERENCES}`)
  if (codes.has('ERR_UNKNOWN_MASTER_KEY'))
    sayIndented(
      'Give the master keys that these rows name with --previous-key-file or API_KEY_MASTER_KEY_PREVIOUS.',
    )
  if (failed.some(({ masterKeyReason: reason }) => reason === 'unavailable' || reason === 'throttled'))
    sayIndented('Run the same command again when the master key answers: what is done stays done.')
}
