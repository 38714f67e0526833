"""The phrases of the support-desk suite: templates in which ``{a|b}`` stands for one of the alternatives.

Everything here was written for this example. ``$word`` is a slot that the generator fills.
"""

from __future__ import annotations

AREAS: dict[str, list[str]] = {
    "kitchen": ["kettle", "toaster", "blender", "oven", "fridge", "mixer"],
    "laundry": ["washer", "dryer", "iron", "steamer", "hamper", "wringer"],
    "audio": ["headset", "speaker", "soundbar", "earbuds", "turntable", "microphone"],
    "network": ["router", "modem", "repeater", "antenna", "switch", "firewall"],
    "garden": ["mower", "trimmer", "sprinkler", "hedger", "shredder", "pump"],
    "fitness": ["treadmill", "rower", "stepper", "dumbbell", "trampoline", "bike"],
    "lighting": ["lamp", "lantern", "spotlight", "chandelier", "torch", "bulb"],
    "furniture": ["desk", "chair", "sofa", "wardrobe", "shelf", "bed"],
}
PRODUCTS: list[str] = [product for products in AREAS.values() for product in products]

FAULTS: dict[str, str] = {
    "leak": "{has a leak|shows a leak|came with a leak}",
    "noise": "{makes a noise|has a strange noise|gives a loud noise}",
    "smell": "{has a bad smell|gives a smell|left a smell}",
    "crack": "{has a crack|shows a crack|came with a crack}",
}
FAULT_ANY = (
    "{stopped working|broke down|does not start|keeps failing|has a leak|makes a noise|shows a crack|gives smoke}"
)

GREETINGS = [
    "hello", "hi there", "good morning", "good evening", "dear team", "hey", "greetings", "hola", "bonjour",
    "guten tag", "ciao", "hello support", "hi all", "good day",
]  # fmt: skip
CLOSINGS = [
    "thanks", "many thanks", "thank you", "best wishes", "kind regards", "cheers", "thanks a lot", "see you", "merci",
    "danke", "gracias", "all the best", "yours",
]  # fmt: skip
# Sentences without influence on the label. Some contain words of the cues (today, week, happy), so that single words
# mislead.
FILLERS = [
    "i {bought|got} it {last week|last month|in spring|two years ago|today} {online|in your shop|at the market}",
    "my {sister|brother|neighbour|friend|boss|aunt} {told me to|said i should} {write|ask} {you|here} {today|first}",
    "i {called|wrote|mailed} {on monday|on friday|twice|this week} {already|before|and waited}",
    "the {box|manual|label|colour|cable} {was|is} {blue|grey|small|heavy|still here|fine}",
    "i {live|work} {near the station|in the old town|on a farm|by the lake|abroad}",
    "{we|they} {moved|travelled|came back} {in may|in june|on sunday|last winter|some days ago}",
    "my {customer number|account|name} {is|should be} {in the form|in your files|below|known to you}",
    "{i hope|we trust} {this mail|this note|my message} {finds you well|reaches the right desk|arrives}",
]

OBJECTS: dict[str, str] = {
    "order": "{order|purchase|basket|cart}",
    "subscription": "{subscription|plan|membership|contract}",
    "delivery": "{delivery|parcel|package|shipment}",
    "invoice": "{invoice|bill|statement|receipt}",
    "repair": "{repair|appointment|service visit|inspection}",
}
ACTIONS: dict[str, list[str]] = {
    "cancel": ["{please|kindly|can you} {cancel|call off|drop} $o", "i {no longer need|do not want} $o {any more|now}"],
    "change": ["{please|can you} {change|edit|adjust|modify} $o", "i {must|want to|have to} {alter|rearrange} $o"],
    "track": ["{where is|what happened to|any news about} $o", "i {want to|would like to} {follow|trace|locate} $o"],
    "dispute": ["there is {a mistake|an error|something wrong} {in|with} $o", "i {dispute|contest|object to} $o"],
    "explain": [
        "{please|can you} {explain|describe} $o",
        "i do not {understand|get} {how|the way} $o {works|is meant}",
    ],
    "refund": [
        "i {want|expect|ask for} {my money back|a refund|a repayment} for $o",
        "{please|kindly} {refund|repay} $o",
    ],
    "confirm": [
        "{please|can you} {confirm|verify|approve} $o",
        "{is it certain|can i be sure} that $o {stands|is set}",
    ],
    "pause": ["{please|can you} {pause|freeze|suspend|hold} $o", "$o should {rest|wait|sleep} {a while|some months}"],
}

# Urgency = deadline level + impact level; level 0, 1, 2 each.
DEADLINES = [
    "{please|kindly} {fix|solve|check} {this|it} {whenever you can|some time|without any rush|when it suits you}",
    "{please|kindly} {fix|solve|check} {this|it} {by friday|this week|within some days|before the weekend}",
    "{please|kindly} {fix|solve|check} {this|it} {today|at once|right now|within the hour|immediately}",
]
IMPACTS = [
    "{we|i} {manage|get along|cope} {without it|with the spare one|well enough|just fine}",
    "{it|this} {slows|bothers|disturbs} {us|me} {a little|most evenings|now and then|at times}",
    "{the whole|our entire} {office|family|shop|school} {is stuck|cannot work|stands still|is blocked}",
]

HAPPY = "{happy|pleased|glad|content|satisfied|delighted}"
UPSET = "{annoyed|upset|angry|disappointed|unhappy|furious}"
ABOUT = "{with|about} {the service|your driver|the price|your answer|the quality|the wait|your shop|the $p}"

REPLIES: dict[str, str] = {
    "cancel": "we have cancelled the $o for your $p",
    "change": "we will change the $o for your $p",
    "track": "the $o for your $p is on its way",
    "dispute": "we will check the $o for your $p again",
    "explain": "here is a guide to the $o for your $p",
    "refund": "we will refund the $o for your $p",
    "confirm": "the $o for your $p is confirmed",
    "pause": "the $o for your $p is on hold",
}
