// Adopts a file of the Python reference, and kills itself at one step: as after a power cut.
//
//   node adopt-and-die.mjs PATH create|rename|commit
import Database from 'better-sqlite3'
import { openKeyStore } from '../../dist/adapters/open.js'

const [path, step] = process.argv.slice(2)
const { exec, transaction } = Database.prototype
const die = () => process.kill(process.pid, 'SIGKILL')

Database.prototype.exec = function (sql) {
  if (step === 'create' && sql.startsWith('CREATE TABLE `__new_')) die()
  const result = exec.call(this, sql)
  if (step === 'rename' && sql.startsWith('DROP TABLE')) die()
  return result
}

Database.prototype.transaction = function (work) {
  // A cache so small that pages of the open transaction go to the file, and must be rolled back from the journal.
  this.pragma('cache_size = 5')
  return transaction.call(this, () => {
    const result = work()
    if (step === 'commit') die()
    return result
  })
}

await openKeyStore(path, { adopt: true })
console.log('survived')
