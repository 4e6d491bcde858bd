/** Names of SQLite's result codes (sqlite.org/rescode.html), for drivers that give only the number, or the name inside a message. */

const PRIMARY: Readonly<Record<number, string>> = {
  1: 'ERROR',
  2: 'INTERNAL',
  3: 'PERM',
  4: 'ABORT',
  5: 'BUSY',
  6: 'LOCKED',
  7: 'NOMEM',
  8: 'READONLY',
  9: 'INTERRUPT',
  10: 'IOERR',
  11: 'CORRUPT',
  12: 'NOTFOUND',
  13: 'FULL',
  14: 'CANTOPEN',
  15: 'PROTOCOL',
  17: 'SCHEMA',
  18: 'TOOBIG',
  19: 'CONSTRAINT',
  20: 'MISMATCH',
  21: 'MISUSE',
  23: 'AUTH',
  25: 'RANGE',
  26: 'NOTADB',
}
/** What follows the primary name, by the code's upper bytes, which begin with 1. */
const EXTENDED: Readonly<Record<string, readonly string[]>> = {
  BUSY: ['RECOVERY', 'SNAPSHOT', 'TIMEOUT'],
  CONSTRAINT: ['CHECK', 'COMMITHOOK', 'FOREIGNKEY', 'FUNCTION', 'NOTNULL', 'PRIMARYKEY', 'TRIGGER', 'UNIQUE'],
  IOERR: [
    ...[
      'READ',
      'SHORT_READ',
      'WRITE',
      'FSYNC',
      'DIR_FSYNC',
      'TRUNCATE',
      'FSTAT',
      'UNLOCK',
      'RDLOCK',
      'DELETE',
    ],
    ...['BLOCKED', 'NOMEM', 'ACCESS', 'CHECKRESERVEDLOCK', 'LOCK', 'CLOSE', 'DIR_CLOSE'],
    ...['SHMOPEN', 'SHMSIZE', 'SHMLOCK', 'SHMMAP'],
  ],
}

/** The name of a result code, such as SQLITE_CONSTRAINT_CHECK for 275. */
export function sqliteCodeName(code: number): string {
  const primary = PRIMARY[code & 0xff]
  if (primary === undefined) return `SQLITE_${code}`
  const extended = EXTENDED[primary]?.[(code >> 8) - 1]
  return `SQLITE_${primary}${extended === undefined ? '' : `_${extended}`}`
}
