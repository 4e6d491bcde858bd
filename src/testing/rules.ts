/**
 * The rules of the contract, in words: what a failure of the suite begins with, so that whoever writes a store reads which sentence of store.ts is
 * broken before how two rows differ.
 */

/** The rules whose tests' names do not say them whole, by the name of the test. */
const RULES: Readonly<Record<string, string>> = {
  'returns a row as it was stored, to the millisecond':
    'every read gives a row back as it was stored: all bytes, null as null, times to the millisecond',
  'leaves out users without a row': 'an absent user is absent from the map: no empty list, no null',
  'keeps unusual ids exact and distinct':
    'ids are bytes: nothing trims, folds, normalises or cuts them, up to 512 bytes',
  'finds 2,000 users in one call': 'one call takes any number of ids, and finds all of them',
  'returns a tombstone as the active row, whatever its version':
    'if any version of a user is a tombstone, getActive gives that tombstone',
  'does not keep arrays and dates that it was given':
    'arrays and Dates are copied when they come in: the caller may overwrite them after the call',
  'returns bytes and dates that the caller may change':
    'arrays and Dates are copied when they go out: the caller may overwrite them, and changes no row',
  'returns the stored rows in input order, and never overwrites a row':
    'it inserts only what is absent, and gives for each input, in order, the row that stands',
  'inserts one row if a batch has several for the same ref':
    'of several rows for one ref in a batch one wins, and all are given it',
  'inserts a row only while another one is live, if it is to be':
    'a row with whileLive is inserted only while exactly that row, with its createdAt, is live, in one transaction',
  'after a removal has ended, no insert that waited for its row is made':
    'whileLive is checked in the transaction of the insert: once the other row is removed, no insert that named it is made',
  'inserts version n only if version n − 1 exists, and leaves out the others':
    'version n is inserted only if n − 1 stands, or comes in the same batch; an input without it has no winner and is left out',
  'accepts the versions of a batch in any order': 'the versions of one batch come in any order',
  'inserts nothing for a user with a tombstone, and returns the tombstone':
    'a tombstone forbids every insert for its user, and is what each of them is given',
  'has exactly one winner when many writers race':
    'exactly one writer wins a ref, in however many processes they race, and all are given the winner’s row',
  'stores 2,000 rows of several writers that send them in different orders':
    'writers that send the same rows in different orders do not end in a deadlock: lock rows by user id, then version',
  'replaces wrapped key, KEK id and wrappedAt, and nothing else':
    'it replaces wrapped key, KEK id and wrappedAt, and nothing else of the row',
  'changes only live rows that still hold the bytes that were read':
    'compare-and-set: a row changes only while it is live and holds `from`; the others are not among the refs that it returns',
  'a change that is made again counts again: its first answer may have been lost':
    'a row that holds `encryptedKey` already counts as changed, since the answer to the first time may have been lost',
  'lets exactly one of several concurrent changes win':
    'of several changes from the same bytes exactly one wins, and the others are told that they lost',
  'sorts by the UTF-8 bytes of the id, then by version as a number':
    'the order is that of the user id’s UTF-8 bytes, then of the version as a number. JavaScript’s own order of strings is another',
  'continues after a ref whose row was removed':
    'a page goes on after `after`, whether its row is still there or not',
  'lists tombstones, except with notKekId, which takes null for another id':
    'tombstones are listed, except with notKekId, for which null is another id',
  'no row that is inserted during a shred survives it':
    'a shred looks again until it finds no live row: an insert that races it does not survive',
  'close is final, and may be called twice': 'close is idempotent, and every later call is ERR_CLOSED',
  'an outage is an error, and never "no such key"':
    'an outage throws ERR_STORE, and is never an empty result',
}

/** Which part of the contract a group of tests is about. */
const PARTS: Readonly<Record<string, string>> = { reading: 'getActive and getAll' }

/**
 * Runs the body of a test. What it throws begins with the rule that is broken, and keeps all else: class, code, expected and actual.
 *
 * @param group the group of the suite, such as `'insertIfAbsent'`
 * @param name the name of the test
 */
export async function namingRule(group: string, name: string, body: () => Promise<void>): Promise<void> {
  try {
    await body()
  } catch (error) {
    if (!(error instanceof Error)) throw error
    const { message, stack } = error
    const named = `KeyStore.${PARTS[group] ?? group}: ${RULES[name] ?? name}\n${message}`
    error.message = named
    // The stack begins with the message as it was.
    if (stack !== undefined) error.stack = stack.replace(message, () => named)
    throw error
  }
}
