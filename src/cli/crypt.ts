/** `keystore encrypt` and `keystore decrypt`. They read standard input and write standard output, so that no secret is an argument. */
import { buffer } from 'node:stream/consumers'
import { Command } from 'commander'
import { invalidArgument } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { isToken } from '../format/token.js'
import { tenantPage } from '../lifecycle/tenant-list.js'
import type { KeyStore } from '../store.js'
import { withEnvelope } from './envelope.js'
import { type EnvelopeOptions, withEnvelopeOptions, withUserAndContext } from './options.js'
import { ownerName } from './output.js'
import { sayError } from './say.js'

interface CryptCommandOptions extends EnvelopeOptions {
  readonly user: string
  readonly context: EncryptionContext
}

interface EncryptCommandOptions extends CryptCommandOptions {
  readonly allowToken?: boolean
  readonly allowEmpty?: boolean
}

export function encryptCommand(): Command {
  return withEnvelopeOptions(withUserAndContext(new Command('encrypt')))
    .description('Encrypt all of standard input for a user, and print the token.')
    .option('--allow-token', 'encrypt what is already a token once more')
    .option('--allow-empty', 'encrypt an empty text')
    .addHelpText('after', '\nExample:\n  printf %s "$SECRET" | npx keystore encrypt --user alice')
    .action(async (options: EncryptCommandOptions) => {
      const plaintext = await readStandardInput('the secret')
      refuseMistakes(plaintext, options)
      const { token, isUnderNoTenant } = await withEnvelope(
        options,
        async (envelope, store) => {
          const isUnderNoTenant = await wouldBeUnderNoTenant(store, options.user)
          return {
            isUnderNoTenant,
            token: await envelope.encryptBytes(options.user, plaintext, options.context),
          }
        },
        { mints: true },
      )
      process.stdout.write(`${token}\n`)
      if (isUnderNoTenant)
        sayError(
          `The new key of ${ownerName(options.user)} is under the primary master key and no tenant's, since commands know no tenantOf: the next ` +
            'rewrapAll of the application brings it to its tenant.',
        )
    })
}

/** Whether a user who has no key would get one beside the tenants of the store. */
async function wouldBeUnderNoTenant(store: KeyStore, userId: string): Promise<boolean> {
  const [{ tenants }, rows] = await Promise.all([tenantPage(store, { limit: 1 }), store.getActive([userId])])
  return tenants.length > 0 && !rows.has(userId)
}

export function decryptCommand(): Command {
  return withEnvelopeOptions(withUserAndContext(new Command('decrypt')))
    .description(
      'Decrypt the token on standard input for a user, and print the plaintext without adding a line end.',
    )
    .addHelpText('after', '\nExample:\n  npx keystore decrypt --user alice < token.txt')
    .action(async (options: CryptCommandOptions) => {
      const token = (await readStandardInput('the token')).toString('utf8').trim()
      refuseNoToken(token)
      const plaintext = await withEnvelope(
        options,
        (envelope) => envelope.decryptBytes(options.user, token, options.context),
        { mints: false },
      )
      process.stdout.write(plaintext)
    })
}

/** @throws ERR_INVALID_ARGUMENT for what is hardly ever meant: a token, as in the library, or nothing, as from a command that failed */
function refuseMistakes(
  plaintext: Buffer,
  { allowToken = false, allowEmpty = false }: EncryptCommandOptions,
): void {
  if (plaintext.length === 0 && !allowEmpty)
    throw invalidArgument(
      'Standard input was empty, so nothing was encrypted: --allow-empty encrypts an empty text',
    )
  if (allowToken) return
  // A token is ASCII. `decrypt` does not mind white space around it either.
  const text = plaintext.toString('latin1').trim()
  if (isToken(text))
    throw invalidArgument('Standard input is a token already: --allow-token encrypts it once more')
  const count = countTokens(text)
  if (count > 1)
    throw invalidArgument(
      `Standard input is ${count} tokens, or what begins like them: --allow-token encrypts them once more, as one text`,
    )
}

/** @throws ERR_INVALID_ARGUMENT where the mistake is not in the token */
function refuseNoToken(text: string): void {
  if (text === '')
    throw invalidArgument(
      'Standard input was empty: `decrypt` reads a token from it, as in `decrypt … < token.txt`',
    )
  const count = countTokens(text)
  if (count > 1) throw invalidArgument(`Standard input is ${count} tokens: \`decrypt\` takes one at a time`)
}

/** How many words a text has that each begin like a token; 0 if any word is another. They may have been cut. */
function countTokens(text: string): number {
  if (!LIKE_A_TOKEN.test(text)) return 0
  const words = text.split(/\s+/)
  return words.every((word) => LIKE_A_TOKEN.test(word)) ? words.length : 0
}

const LIKE_A_TOKEN = /^v[23]:[\w-]/

function readStandardInput(what: string): Promise<Buffer> {
  if (process.stdin.isTTY) process.stderr.write(`Type ${what}, then Ctrl-D:\n`)
  return buffer(process.stdin)
}
