// Entry of the console's scripts. Every page works without them; they only make it quicker to use.
import { copyButtons } from './copy.js'
import { dialogs } from './dialog.js'
import { live } from './live.js'
import { passwordMeters } from './password.js'
import { pickers, selections } from './table.js'
import { tabs } from './tabs.js'
import { partialForms } from './partial.js'
import { preferences } from './preference.js'
import { relativeTimes } from './time.js'

document.documentElement.classList.add('scripted')

/** Brings a part of the page to life; called for the page and for every part that is fetched later. */
export function enhance (root) {
  copyButtons(root)
  passwordMeters(root)
  pickers(root)
  selections(root)
  relativeTimes(root)
}

enhance(document)
tabs(document)
preferences()
partialForms(enhance)
dialogs(enhance)
live(enhance)
