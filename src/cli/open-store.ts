/** Opens stores for commands. */
import { type OpenedKeyStore, type OpenKeyStoreOptions, openKeyStore } from '../adapters/open.js'
import { storeFile } from './git-ignore.js'

/** Like `openKeyStore`, but leaves a file that is there in its journal mode: it may be the application's. */
export function openStore(
  url: string,
  options: Omit<OpenKeyStoreOptions, 'journalMode'> = {},
): Promise<OpenedKeyStore> {
  return openKeyStore(url, storeFile(url) === null ? options : { ...options, journalMode: 'keep' })
}
